"""Loss curves of a training with kernels and recording beside those of the same training in plain PyTorch, on the same rows and seed.

    python tests/benchmarks/speed/curves.py [ARCHITECTURE ...] [--steps 2000] [--shape S1] > curves.jsonl

Prints a JSON line an architecture, of which `table.py` makes a page. A tenth is the mean of the last `log_every` steps before it.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from smoke import made
from workload import Shape, make_rows

sys.path.append(str(Path(__file__).parents[1]))
from machine import opening

from saelab.kernels import adam, sparse

ARCHITECTURES = ("topk", "batchtopk", "abstopk", "matryoshka", "jumprelu")
TENTHS = 10
HOW = """\
`fast` is the trainer as it is, `plain` the same trainer without Triton kernels and without recording, in the same precision. Rows and seed
are the same; a feature is dead after {dead:,} rows without it, so that the term that revives features is at work too. `loss`: fast and
plain at each tenth of the {steps:,} steps (means of 20 steps). `worst`: the largest difference of the two at a tenth, relative."""
DEAD_AFTER = 100_000


def curve(shape: Shape, architecture: str, steps: int, fast: bool) -> list[dict[str, float]]:
    """The log at each tenth of a training."""
    device = torch.device("cuda")
    batches = make_rows(shape, device)
    with patch.multiple(sparse, HAS_TRITON=fast), patch.multiple(adam, HAS_TRITON=fast):
        trainer = made(shape, architecture, target(architecture, shape), device, steps=steps, dead_after=DEAD_AFTER)
        if not fast:
            trainer._recording = None
        trainer.initialise(torch.cat(batches))
        rows = []
        for number in range(1, steps + 1):
            trainer.step(batches[number % len(batches)])
            if trainer.due():
                row = trainer.row()
                if number % (steps // TENTHS) == 0:
                    rows.append(row.metrics)
    return rows


def target(architecture: str, shape: Shape) -> dict[str, Any]:
    """How many features are to be active, where that is not called k."""
    return {"target_l0": shape.k} if architecture == "jumprelu" else {}


def compared(shape: Shape, architecture: str, steps: int) -> dict[str, Any]:
    """Both curves, and how far they are apart."""
    began = time.perf_counter()
    fast, plain = (curve(shape, architecture, steps, way) for way in (True, False))
    losses = [(a["loss"], b["loss"]) for a, b in zip(fast, plain, strict=True)]
    facts = {name: f"{fast[-1][name]:.5f} and {plain[-1][name]:.5f}" for name in ("fvu", "l0", "dead")}
    return {
        "worst": max(abs(a - b) / b for a, b in losses),
        **facts,
        "loss": "; ".join(f"{a:.4f} {b:.4f}" for a, b in losses),
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--shape", default="S1")
    given = parser.parse_args()
    how = HOW.format(dead=DEAD_AFTER, steps=given.steps)
    print(json.dumps(opening("curves", "The same losses with and without kernels", how, "cuda")), flush=True)
    for architecture in given.architectures:
        print(json.dumps({"what": architecture, **compared(Shape.parse(given.shape), architecture, given.steps)}), flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
