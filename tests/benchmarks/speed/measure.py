"""Measures one trainer on some shapes in this process: `run.py` starts it, a line of JSON a shape goes to a file."""

import gc
import json
import statistics
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ours
import peers
import plain
import torch
from made import Made, Maker
from torch import Tensor
from workload import Clock, Finished, Shape, make_rows, peak_gib

TRAINERS: dict[str, Maker] = {
    **{
        f"saelab-{architecture}-{precision}": partial(ours.make, architecture=architecture, precision=precision)
        for architecture in ("topk", "batchtopk", "abstopk", "matryoshka", "jumprelu")
        for precision in ("bf16", "fp32")
    },
    "plain-topk-bf16": partial(plain.make_plain, precision="bf16"),
    "plain-topk-fp32": partial(plain.make_plain, precision="fp32"),
    "plain-topk-compile": partial(plain.make_plain, precision="bf16", compiled=True),
    "openai_like-topk-bf16": plain.make_openai,
    "sparsify-topk-adam": partial(peers.make_sparsify, optimiser="adam"),
    "sparsify-topk-signum": partial(peers.make_sparsify, optimiser="signum"),
    **{
        f"{library}-{architecture}-{precision}": partial(make, architecture=architecture, precision=precision)
        for library, make in (("dictionary_learning", peers.make_dictionary_learning), ("sae_lens", peers.make_saelens))
        for architecture in ("topk", "batchtopk", "jumprelu")
        for precision in ("bf16", "fp32")
    },
}
"""Makers by name, `<library>-<architecture>-<setting>`, in the order in which they run."""


_STEPS_BEFORE = 4


def encode_all(made: Made, batches: Clock) -> None:
    """The loop of a shape that only encodes, after some steps that set thresholds."""
    with suppress(Finished):
        made.fit(Clock(batches.batches, 0, _STEPS_BEFORE, batches.seconds))
    for x in batches:
        made.encode(x)


def measure(trainer: str, shape: Shape, device: torch.device, clock: dict[str, Any]) -> dict[str, Any]:
    """What the timed steps took, the memory, and how many features are active a row at the end."""
    torch.manual_seed(0)
    batches = make_rows(shape, device)
    made = TRAINERS[trainer](shape, batches[0])
    timed = Clock(batches, **clock)
    began = time.perf_counter()
    try:
        encode_all(made, timed) if shape.encode else made.fit(timed)
    except Finished:
        times = timed.milliseconds()
    peak = peak_gib(device)
    median = statistics.median(times)
    return {
        "ms": median,
        "ms_min": min(times),
        "ms_max": max(times),
        "ms_mean": statistics.fmean(times),
        "tokens_per_second": 1e3 * shape.batch / median,
        "peak_gib": peak,
        "l0": _l0(made, batches[0]),
        "steps": len(times),
        "seconds": time.perf_counter() - began,
    }


def _l0(made: Made, x: Tensor) -> float:
    return int((made.encode(x[:256]) != 0).sum()) / 256


def described(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


def main(job: dict[str, Any]) -> None:
    """Measures the job's shapes one after another; an error becomes the line of its shape."""
    device = torch.device(job["device"])
    if device.type == "cpu":
        torch.set_num_threads(job["threads"])
    for name in job["shapes"]:
        try:
            found = measure(job["trainer"], Shape.parse(name), device, job["clock"])
        except Exception as error:
            found = {"error": described(error)}
        with Path(job["out"]).open("a") as file:
            file.write(json.dumps({"trainer": job["trainer"], "shape": name, **found}) + "\n")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
