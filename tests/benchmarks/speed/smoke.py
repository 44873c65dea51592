"""Every kind of training for some steps on planted rows, on the device that there is: what runs, how fast, and what fails, with its reason.

    python tests/benchmarks/speed/smoke.py [NAME ...] [--steps 50] [--shape S1]

Prints a JSON line a case, of which `table.py` makes a page. A case that fails becomes a line with the last lines of its error. `sweep`
trains four TopK dictionaries in one pass over a stream and compares with the sum of the four alone; `resume` stops a recorded trainer, goes
on from its checkpoint and compares with one that was not stopped.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from workload import Shape, make_rows

sys.path.append(str(Path(__file__).parents[1]))
from machine import opening

from saelab.dictionary import DICTIONARIES, Losses, Trainable, save_dictionary
from saelab.sweep import Member, fit
from saelab.training import TrainConfig, Trainer
from saelab.values import from_dict

SINGLE: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("topk", "batchtopk", "abstopk", "matryoshka", "jumprelu", "standard", "gated")},
    **{f"{name}, free": (name, {"decoder": "free"}) for name in ("topk", "batchtopk", "jumprelu")},
    "topk, multi": ("topk", {"multi": 0.125}),
    **{name: (name, {}) for name in ("transcoder", "crosscoder", "scar")},
    "transcoder, skip": ("transcoder", {"skip": True}),
}
"""Cases by name: architecture and settings beyond the sizes."""
KS = (16, 32, 64, 128)
HOW = """\
Planted rows, bf16 on a GPU, float32 on a CPU. `loss_first` and `loss_last`: of the first and of the last step. `steps_per_second`: of the
second half of the steps. `over_the_sum`: time of a step of four dictionaries from one stream over the sum of their steps alone.
`same_bits`: weights after a stop and a resume equal those without."""


def made(
    shape: Shape, architecture: str, config: dict[str, Any], device: torch.device, folder: Path | None = None, **train: Any
) -> Trainer:
    """A trainer of the shape, not initialised; of two hooks where the architecture reads or writes several."""
    kind = DICTIONARIES[architecture]
    assert issubclass(kind, Trainable)
    size = {"d_sae": shape.d_sae} | ({"k": shape.k} if hasattr(kind.Config(), "k") else {})  # type: ignore[attr-defined]
    widths = [shape.d_in] * (2 if kind.places in {"target", "hooks"} else 1)
    dictionary = kind.for_widths(widths, from_dict(kind.Config, {**size, **config})).to(device)  # type: ignore[attr-defined]
    precision = "bf16" if device.type == "cuda" else "fp32"
    return Trainer(dictionary, from_dict(TrainConfig, {"batch_size": shape.batch, "precision": precision, **train}), folder)


def widened(batches: list[Tensor], width: int) -> list[Tensor]:
    """Rows as wide as a dictionary reads: several hooks side by side, a label behind."""
    d_in = batches[0].shape[1]
    return [torch.cat([x] * (width // d_in) + [(x[:, : width % d_in] > 0).float()], dim=1) for x in batches]


def waited(device: torch.device) -> float:
    """The time once the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def single(shape: Shape, device: torch.device, steps: int, architecture: str, config: dict[str, Any]) -> dict[str, Any]:
    """One trainer."""
    trainer = made(shape, architecture, config, device, steps=steps)
    batches = widened(make_rows(shape, device), trainer.dictionary.width)
    trainer.initialise(batches[0])
    coming = cycle(batches)
    loss = [total(trainer.step(next(coming)))]
    for x in islice(coming, steps // 2 - 1):
        trainer.step(x)
    began, rest = waited(device), steps - steps // 2
    for x in islice(coming, rest):
        last = trainer.step(x)
    speed = rest / (waited(device) - began)
    loss.append(total(last))
    recorded = trainer._recording is not None
    return {"loss_first": loss[0], "loss_last": loss[1], "steps_per_second": speed, "recorded": recorded, "finite": trainer.finite()}


def total(losses: Losses) -> float:
    """The loss of a step."""
    return sum(float(term.detach()) for term in losses.terms.values())


def residual(shape: Shape, device: torch.device, steps: int) -> dict[str, Any]:
    """A residual SAE on a frozen TopK one."""
    with tempfile.TemporaryDirectory() as folder:
        base = made(shape, "topk", {}, device, steps=steps)
        base.initialise(make_rows(shape, device)[0])
        save_dictionary(base.dictionary, Path(folder))
        return single(shape, device, steps, "residual", {"base": folder})


def endless(batches: list[Tensor]) -> Callable[[int], Iterator[Tensor]]:
    """Batches for `fit`, from a step on."""
    return lambda step: islice(cycle(batches), step % len(batches), None)


def sweep(shape: Shape, device: torch.device, steps: int) -> dict[str, Any]:
    """Four dictionaries in one pass over their rows, and each of them alone."""
    batches = make_rows(shape, device)
    stream = endless(batches)

    def seconds(ks: tuple[int, ...], count: int) -> float:
        members = [Member(made(shape, "topk", {"k": k}, device, steps=count, sample=len(batches[0])), stream) for k in ks]
        began = waited(device)
        fit(members)
        return waited(device) - began

    def step(ks: tuple[int, ...]) -> float:
        """Seconds of a step: what a longer run takes more than a shorter one, in which steps are recorded."""
        return (seconds(ks, 5 * few) - seconds(ks, few)) / (4 * few)

    few = 8 * steps if device.type == "cuda" else steps
    seconds(KS, few)  # kernels are made, those that revive dead features too
    alone, together = [step((k,)) for k in KS], step(KS)
    return {
        "step_ms_alone": [round(1e3 * each, 4) for each in alone],
        "step_ms_together": 1e3 * together,
        "over_the_sum": together / sum(alone),
        "tokens_per_second": len(KS) * shape.batch / together,
    }


class Stop(Exception):
    """Ends a training in its middle."""


def resume(shape: Shape, device: torch.device, steps: int) -> dict[str, Any]:
    """A trainer that is stopped in the middle and goes on from its checkpoint, beside one that is not stopped."""
    batches = make_rows(shape, device)
    stream = endless(batches)

    def stopped(step: int) -> Iterator[Tensor]:
        yield from islice(stream(step), steps // 2)
        raise Stop

    def trained(folder: Path, read: Callable[[int], Iterator[Tensor]]) -> Trainer:
        trainer = made(shape, "topk", {}, device, folder, steps=steps, sample=len(batches[0]), checkpoint_every=0.0)
        trainer.fit(read)
        return trainer

    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as parts:
        once = trained(Path(whole), stream)
        with suppress(Stop):
            trained(Path(parts), stopped)
        again = trained(Path(parts), stream)
    pairs = list(zip(once.dictionary.parameters(), again.dictionary.parameters(), strict=True))
    return {
        "recorded": again._recording is not None,
        "same_bits": all(torch.equal(a, b) for a, b in pairs),
        "largest_difference": max(float((a - b).detach().abs().max()) for a, b in pairs),
        "steps": again.steps_done,
    }


def main() -> None:
    """Runs the cases one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of resume, sweep, residual, {', '.join(SINGLE)}; all without")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--shape", default="S1" if torch.cuda.is_available() else "toy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    device, shape = torch.device(given.device), Shape.parse(given.shape)
    works: dict[str, Callable[..., dict[str, Any]]] = {
        "resume": resume,
        "sweep": sweep,
        "residual": residual,
        **{name: partial(single, architecture=kind, config=config) for name, (kind, config) in SINGLE.items()},
    }
    print(json.dumps(opening("smoke", "Every kind of training, some steps", HOW, device.type)), flush=True)
    for name in given.names or works:
        began = time.perf_counter()
        try:
            found = works[name](shape, device, given.steps)
        except Exception:
            found = {"error": traceback.format_exc().strip().splitlines()[-6:]}
        print(json.dumps({"what": name, **found, "seconds": round(time.perf_counter() - began, 1)}), flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
