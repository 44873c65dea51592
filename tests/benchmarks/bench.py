"""Speeds of the spine beside what a user would write without it, in one run: `make bench` prints a Markdown table.

Needs a finished demo run (`make demo`), whose corpus, activations and dictionary it uses; writes nothing there. Each pair is timed in turn
(ours, theirs, ours, theirs, ...) and the median is shown, so that a busy moment of the machine touches both.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from saelab.activations.base import Chunk
from saelab.features.collect import CollectConfig, collect
from saelab.lab import Lab
from saelab.run import versions
from saelab.saes.topk import TopK
from saelab.training import TrainConfig, Trainer

ROUNDS = 5


def alternate(runs: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Median units a second of each, timed in turn; each gives how many units it did."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(ROUNDS + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            units = run()
            if round_number:  # the first is warm-up
                rates[name].append(units / (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in rates.items()}


def full_windows(lab: Lab, count: int) -> Tensor:
    """Some windows of full length."""
    full = (i for i, length in enumerate(lab.corpus.window_length) if length == lab.policy.context)
    return torch.stack([torch.from_numpy(lab.corpus.window_tokens(i).astype("int64")) for _, i in zip(range(count), full, strict=False)])


def bench_capture(lab: Lab) -> dict[str, float]:
    """Tokens a second from text windows to activations on disk (ours), in a list (plain loop), in a cache (bridge)."""
    tokens = full_windows(lab, 48)
    model, layer = lab.subject.model, int(lab.hook.split(".")[1])

    class Stop(Exception):
        pass

    def ours() -> int:
        for batch in tokens.split(16):
            lab.subject.activations(batch, [lab.hook])
        return tokens.numel()

    def plain() -> int:
        kept: list[Tensor] = []

        def hook(_module, _inputs, output):
            kept.append(output[0] if isinstance(output, tuple) else output)
            raise Stop

        handle = model.model.layers[layer].register_forward_hook(hook)
        with torch.inference_mode():
            for batch in tokens.split(16):
                with suppress(Stop):
                    model(input_ids=batch, use_cache=False)
        handle.remove()
        return tokens.numel()

    bridge = lab.subject.bridge

    def bridged() -> int:
        with torch.inference_mode():
            for batch in tokens.split(16):
                bridge.run_with_cache(batch, names_filter=lab.hook, stop_at_layer=layer + 1, prepend_bos=False)
        return tokens.numel()

    return alternate(
        {"capture: saelab": ours, "capture: plain Hugging Face loop": plain, "capture: TransformerLens bridge (float32)": bridged}
    )


class Dense(nn.Module):
    """TopK as one would write it in plain PyTorch: dense codes, dense gradients, fused Adam."""

    def __init__(self, d_in: int, d_sae: int, k: int) -> None:
        super().__init__()
        self.decoder = nn.Parameter(nn.functional.normalize(torch.randn(d_sae, d_in), dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(d_sae)), nn.Parameter(torch.zeros(d_in))
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        pre = nn.functional.linear(x - self.b_dec, self.encoder, self.b_enc)
        values, indices = pre.topk(self.k, dim=-1, sorted=False)
        codes = torch.zeros_like(pre).scatter(-1, indices, values.relu())
        return codes @ self.decoder + self.b_dec


def bench_train(lab: Lab) -> dict[str, float]:
    """Activations a second of a training step, batch 4096: our whole trainer against a bare dense step."""
    x = torch.cat([chunk.x.float() for _, chunk in zip(range(3), lab.store.chunks(held_out=False), strict=False)])[:4096]
    d_in, d_sae, k = lab.dictionary.d_in, lab.dictionary.d_sae, 32
    runs: dict[str, Callable[[], int]] = {}
    for precision in ("fp32", "bf16"):
        trainer = Trainer(TopK(d_in, TopK.Config(d_sae=d_sae, k=k)), TrainConfig(steps=1000, precision=precision))
        trainer.initialise(x)
        runs[f"train: saelab, {precision}"] = lambda trainer=trainer: (trainer.step(x), len(x))[1]
    dense = Dense(d_in, d_sae, k)
    adam = torch.optim.Adam(dense.parameters(), lr=1e-4, fused=True)
    scaled = x / x.std()

    def plain() -> int:
        adam.zero_grad()
        (dense(scaled) - scaled).square().mean().backward()
        adam.step()
        return len(x)

    return alternate({**runs, "train: plain PyTorch, dense": plain})


def bench_collect(lab: Lab) -> dict[str, float]:
    """Tokens a second of the collection pass, and of its encoding alone."""
    chunks = [lab.store.chunk(number) for number in range(2)]
    rows = sum(len(chunk.x) for chunk in chunks)

    class Two:
        def chunk_rows(self) -> tuple[int, ...]:
            return tuple(len(chunk.x) for chunk in chunks)

        def chunk(self, number: int) -> Chunk:
            return chunks[number]

    def ours() -> int:
        collect(lab.dictionary, Two(), lab.corpus, CollectConfig(device="cpu"))
        return rows

    def encode() -> int:
        with torch.inference_mode():
            for chunk in chunks:
                for part in chunk.x.split(4096):
                    lab.dictionary.encode(part.float())
        return rows

    return alternate({"collect: saelab": ours, "collect: encoding alone": encode})


def bench_steer(lab: Lab) -> dict[str, float]:
    """Generated tokens a second: base and steered together (both texts counted), against plain `generate` of one text."""
    from saelab.interventions import feature_edit
    from saelab.records import Intervention

    prompt = lab.subject.encode("The history of the city begins with")
    change = Intervention(feature=0, op="add", strength=1.0, unit="raw")
    edits = {lab.hook: feature_edit(lab.dictionary, [change], {})}
    ids = torch.tensor([prompt])

    def ours() -> int:
        steps = lab.subject.generate(prompt, [{}, edits], editable=[False] + [True] * (len(prompt) - 1), max_tokens=40)
        return sum(token is not None for step in steps for token in step)

    def plain() -> int:
        out = lab.subject.model.generate(ids, max_new_tokens=40, do_sample=False, attention_mask=torch.ones_like(ids))
        return out.shape[1] - len(prompt)

    return alternate({"steer: saelab, two texts": ours, "steer: plain generate, one text": plain})


def main(run: str) -> None:
    """Prints the table."""
    lab = Lab(Path(run))
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    print(f"Machine: {machine}. {found}. Subject in {lab.subject.dtype}.\n")
    print("| what | a second |\n| --- | ---: |")
    for bench in (bench_capture, bench_train, bench_collect, bench_steer):
        for name, rate in bench(lab).items():
            print(f"| {name} | {rate:,.1f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
