"""Collecting features: our pass beside delphi's cache and SAEDashboard's runner, on the same dictionary, tokens and machine in one run.

    python tests/benchmarks/collect.py --peers SITE_PACKAGES            # CPU; where eai-delphi and sae-dashboard lie
    python tests/benchmarks/collect.py --device cuda --latents 16384 131072 --tokens 10000000 --batch 65536 --peers SITE_PACKAGES --out FILE

Needs no model: activations are drawn at random, the dictionary is a random TopK one whose features fire with densities over three decades.
Only the bookkeeping is compared: what happens to the codes once they are made. Of the peers it is the public code that does it, driven
directly: `InMemoryCache.add` and `save` with the firing counts of `LatentCache.run` (delphi), `FeatureStatistics.create` and
`SequenceDataGenerator.get_sequences_data` for each feature (SAEDashboard; on some features, scaled to all; its repeated forward passes are
not counted). Both get their codes dense, which is not counted either, and the first `--peer-tokens` alone. `--out` gets a JSON line a row,
of which `speed/table.py` makes a page.
"""

import argparse
import importlib
import json
import resource
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from machine import opening
from torch import Tensor

from saelab.corpus import Corpus, DocumentInfo
from saelab.devices import usable
from saelab.dictionary import Codes
from saelab.features.examples import Grid
from saelab.features.sketch import CollectConfig, Sketch
from saelab.policy import TokenPolicy
from saelab.saes.topk import TopK

D_IN, CONTEXT, DOCUMENT, VOCABULARY = 576, 128, 1024, 49152
DASHBOARD_FEATURES, DASHBOARD_BATCH = 64, 32
PEER_LATENTS = 16_384
"""Wider dictionaries have fewer tokens for the peers, so that their dense codes are as many."""
HOW = """\
Synthetic activations of width 576 without a model. Bookkeeping is what happens to the codes once they are made, for all features; its share
is of bookkeeping and encoding together. delphi: `InMemoryCache` with firing counts. SAEDashboard: statistics and sequences of each feature,
measured on 64 features and scaled. Both are given their codes dense, which is not counted."""
PROFILED = 8
"""Batches at the end of a pass whose kernels are looked at."""
UNUSED = (
    *("sae_lens", "sae_lens.config", "sae_lens.saes", "sae_lens.saes.topk_sae", "matplotlib", "matplotlib.pyplot", "matplotlib.colors"),
    *("transformer_lens", "transformer_lens.utils", "transformer_lens.HookedTransformer", "transformer_lens.hook_points"),
)


class Synthetic:
    """A corpus of random tokens, a random dictionary, and activations made batch by batch."""

    def __init__(self, latents: int, tokens: int, l0: int, batch: int, device: torch.device) -> None:
        random = np.random.default_rng(0)
        count = max(1, tokens // DOCUMENT)
        splits = ("explain", "select", "score")
        infos = [DocumentInfo(key=str(i), domain="random", split=splits[i % 3], held_out=False) for i in range(count)]
        ids = random.integers(0, VOCABULARY, count * DOCUMENT, dtype=np.int32)
        self.corpus = Corpus(TokenPolicy(context=CONTEXT), infos, ids, np.arange(count + 1) * DOCUMENT)
        torch.manual_seed(0)
        self.dictionary = TopK(D_IN, TopK.Config(d_sae=latents, k=l0)).to(device)
        bias = dict(self.dictionary.named_parameters())["b_enc"]
        with torch.no_grad():
            bias.copy_(0.5 * torch.randn(latents))
        self.windows, self.device = max(1, batch // CONTEXT), device
        self.codes: list[Codes] = []

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Activations and the numbers of their windows."""
        generator = torch.Generator(self.device).manual_seed(0)
        for begin in range(0, self.corpus.num_windows, self.windows):
            windows = torch.arange(begin, min(begin + self.windows, self.corpus.num_windows), device=self.device)
            yield torch.randn(len(windows) * CONTEXT, D_IN, device=self.device, generator=generator), windows


class Clock:
    """Seconds spent on each kind of work."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    def timed(self, name: str, work: Callable[[], object]) -> object:
        self._wait()
        began = time.perf_counter()
        found = work()
        self._wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return found

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def ours(data: Synthetic, config: CollectConfig, clock: Clock, keep: int = 0, profile: Path | None = None) -> Sketch:
    """Our pass over all tokens.

    Arguments:
    - `keep`: tokens whose codes are held for the others.
    - `profile`: where a table of the kernels is written that counting in the last batches, passed a second time, takes.
    """
    grid = Grid(data.corpus, config.width, config.before)
    sketch = Sketch(grid, config, data.dictionary.d_sae, 1, data.device)
    with torch.no_grad():
        for x, windows in data.batches():
            place = (windows[:, None] * grid.positions + torch.arange(CONTEXT, device=data.device)).flatten()
            codes = clock.timed("encode", lambda x=x: data.dictionary.encode(x))
            assert isinstance(codes, Codes)
            if CONTEXT * int(windows[0]) < keep:
                data.codes.append(codes)
            clock.timed("ours", lambda codes=codes, place=place: sketch.add(codes.indices, codes.values, place))
    clock.timed("ours", lambda: [kept.settle() for kept in sketch.kept.values()])
    if profile:
        with torch.no_grad(), torch.profiler.profile() as profiled:
            for _ in range(PROFILED):
                sketch.add(codes.indices, codes.values, place)
        by = "self_device_time_total" if data.device.type == "cuda" else "self_cpu_time_total"
        profile.write_text(f"{PROFILED} batches of {len(place):,} tokens\n{profiled.key_averages().table(sort_by=by, row_limit=40)}\n")
    return sketch


def delphi(data: Synthetic, clock: Clock, peers: Path) -> None:
    """delphi's cache, 32 windows at a time as its default batch."""
    package = types.ModuleType("delphi.latents")  # its __init__ imports vLLM
    package.__path__ = [str(peers / "delphi" / "latents")]
    sys.modules["delphi.latents"] = package
    cache, number = importlib.import_module("delphi.latents.cache").InMemoryCache(None, batch_size=32), 0
    counts: list[Tensor] = []

    def add(dense: Tensor, tokens: Tensor, number: int) -> None:
        cache.add(dense, tokens, number, "hook")
        fired = (dense.cpu() > 0).sum((0, 1))
        counts[:] = [fired + counts[0] if counts else fired]

    with torch.no_grad():
        for codes in data.codes:
            for indices, values in zip(codes.indices.split(CONTEXT * 32), codes.values.split(CONTEXT * 32), strict=True):
                part = Codes(indices=indices, values=values, d_sae=codes.d_sae).dense().view(-1, CONTEXT, codes.d_sae)
                tokens = torch.zeros(part.shape[:2], dtype=torch.int64)
                clock.timed("delphi", lambda part=part, tokens=tokens, number=number: add(part, tokens, number))
                number += 1
    clock.timed("delphi", cache.save)


def dashboard(data: Synthetic, clock: Clock) -> None:
    """SAEDashboard's work on each feature, on some of them. What it imports for models and plots is not needed and left out."""
    for name in UNUSED:
        sys.modules.setdefault(name, MagicMock())
    config = importlib.import_module("sae_dashboard.sae_vis_data").SaeVisConfig(
        hook_point="hook", features=list(range(DASHBOARD_FEATURES)), device=str(data.device), dtype="float32"
    )
    generator = importlib.import_module("sae_dashboard.sequence_data_generator").SequenceDataGenerator
    statistics = importlib.import_module("sae_dashboard.utils_fns").FeatureStatistics
    unembed, resid, dense = torch.randn(16, VOCABULARY), torch.zeros(16, device=data.device), []
    with torch.no_grad():
        for codes in data.codes:
            slots = torch.nonzero((codes.indices < DASHBOARD_FEATURES) & (codes.values != 0))
            part = torch.zeros(len(codes.indices), DASHBOARD_FEATURES, device=data.device)
            part[slots[:, 0], codes.indices[slots[:, 0], slots[:, 1]]] = codes.values[slots[:, 0], slots[:, 1]]
            dense.append(part.view(-1, CONTEXT, DASHBOARD_FEATURES))
    found = torch.cat(dense)
    tokens = torch.from_numpy(data.corpus.windows(np.arange(len(found)))[0])
    sequences = generator(config, tokens, unembed)

    def run() -> None:
        for first in range(0, DASHBOARD_FEATURES, DASHBOARD_BATCH):
            batch = found[..., first : first + DASHBOARD_BATCH]
            statistics.create(batch.permute(2, 0, 1).flatten(1), batch_size=None)
            for feature in range(batch.shape[-1]):
                sequences.get_sequences_data(batch[..., feature], torch.zeros(VOCABULARY), torch.tensor([]), resid)

    clock.timed("SAEDashboard", run)
    clock.seconds["SAEDashboard"] *= data.dictionary.d_sae / DASHBOARD_FEATURES


def memory(device: torch.device) -> float:
    """Most memory taken so far, in MB: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def compared(latents: int, args: argparse.Namespace, device: torch.device) -> Iterator[dict[str, object]]:
    """The rows of one number of latents: ours, then the peers; one that fails has the reason."""
    ours(Synthetic(latents, args.batch, args.l0, args.batch, device), CollectConfig(), Clock(device))  # warm-up
    data, clock = Synthetic(latents, args.tokens, args.l0, args.batch, device), Clock(device)
    keep = args.peer_tokens * PEER_LATENTS // max(latents, PEER_LATENTS) if args.peers else 0
    sketch = ours(data, CollectConfig(), clock, keep, args.profile and args.profile.with_suffix(f".{latents}.txt"))
    state = sum(tensor.nbytes for name, tensor in sketch.tensors().items() if not name.startswith("pool")) / latents
    encode = clock.seconds["encode"] / data.corpus.num_tokens

    def row(who: str, tokens: int, **more: object) -> dict[str, object]:
        own = clock.seconds[who] / tokens
        rates = {"bookkeeping_tokens_per_second": 1 / own, "share": own / (own + encode), "pass_tokens_per_second": 1 / (own + encode)}
        return {"what": f"{who}, {latents:,} latents", "latents": latents, "who": who, "tokens": tokens, **rates, **more}

    yield row("ours", data.corpus.num_tokens, state_bytes=state, peak_mb=memory(device))
    del sketch
    works: dict[str, Callable[[], None]] = {
        "delphi": lambda: delphi(data, clock, args.peers),
        "SAEDashboard": lambda: dashboard(data, clock),
    }
    for who, work in works.items() if args.peers else ():
        try:
            work()
            yield row(who, sum(len(codes.indices) for codes in data.codes))
        except Exception as error:  # the others have been measured by then
            yield {"what": f"{who}, {latents:,} latents", "latents": latents, "who": who, "error": f"{type(error).__name__}: {error}"[:300]}


def shown(row: dict[str, object]) -> str:
    """A row of the table."""
    if "error" in row:
        return f"| {row['latents']:,} | {row['who']} | {row['error']} | | | | |"
    own = f"{row['state_bytes']:,.0f} | {row['peak_mb']:,.0f}" if "peak_mb" in row else " | "
    rates = f"{row['bookkeeping_tokens_per_second']:,.0f} | {row['share']:.0%} | {row['pass_tokens_per_second']:,.0f}"
    return f"| {row['latents']:,} | {row['who']} | {row['tokens']:,} | {rates} | {own} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--latents", type=int, nargs="+", default=[16384])
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--l0", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16384)
    parser.add_argument("--peers", type=Path, help="site-packages with eai-delphi and sae-dashboard; none to measure ours alone")
    parser.add_argument("--peer-tokens", type=int, default=262_144, help="tokens for the peers; fewer where there are over 16,384 latents")
    parser.add_argument(
        "--profile", type=Path, help="beginning of files for the kernels of the bookkeeping, one for each number of latents"
    )
    parser.add_argument("--out", type=Path, help="file that gets a JSON line a row")
    args = parser.parse_args()
    device = usable(args.device)
    if args.peers:
        sys.path.append(str(args.peers))
    lines = [opening("collection", "Collecting features", HOW, device.type)]
    print("| latents | who | tokens | bookkeeping tokens/s | share of the pass | pass tokens/s | state, B a latent | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for latents in args.latents:
        for row in compared(latents, args, device):
            lines.append(row)
            print(shown(row), flush=True)
            if args.out:
                args.out.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
