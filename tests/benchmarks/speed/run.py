"""The training step of saelab and of its peers side by side on one device, a line of JSON a trainer and shape.

    python tests/benchmarks/speed/run.py --shapes S1 S2 S2@16384 S2:encode --out speed.jsonl
    python tests/benchmarks/speed/table.py speed.jsonl

`--trainers` takes names or beginnings of names, such as `saelab` or `sae_lens-topk`; all without it. Each trainer has a process of its own:
one that fails, runs out of memory or of time becomes a line with the reason, and the next goes on. The first line of the file says where it
ran.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import TRAINERS
from workload import Shape

sys.path.append(str(Path(__file__).parents[1]))
from machine import machine

HERE = Path(__file__).parent


def chosen(patterns: Sequence[str]) -> list[str]:
    """The trainers that begin as one of the patterns does, in their own order."""
    strange = [pattern for pattern in patterns if not any(name.startswith(pattern) for name in TRAINERS)]
    if strange:
        raise SystemExit(f"{', '.join(strange)}: no such trainer; there are {', '.join(TRAINERS)}.")
    return [name for name in TRAINERS if any(name.startswith(pattern) for pattern in patterns)]


def run_one(trainer: str, arguments: argparse.Namespace) -> None:
    """Measures a trainer on all shapes, in a new process after each that ends early."""
    left = list(arguments.shapes)
    while left:
        before = _lines(arguments.out)
        job = {"trainer": trainer, "shapes": left, "device": arguments.device, "threads": arguments.threads, "clock": _clock(arguments)}
        reason = _child({**job, "out": str(arguments.out)}, arguments.limit * len(left))
        done = _lines(arguments.out) - before
        left = left[done:]
        if left:
            line = {"trainer": trainer, "shape": left.pop(0), "error": reason}
            with arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _clock(arguments: argparse.Namespace) -> dict[str, Any]:
    return {key: getattr(arguments, key) for key in ("warmup", "steps", "seconds", "cpu_time")}


def _child(job: dict[str, Any], limit: float) -> str:
    """Runs the job; why it ended early, if it did."""
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(job["threads"]), "WANDB_MODE": "disabled"}
    if job["device"] == "cpu":
        environment["SPARSIFY_DISABLE_TRITON"] = "1"  # its own switch: it takes Triton where it is installed, and Triton needs a GPU
    command = [sys.executable, str(HERE / "measure.py"), json.dumps(job)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"not done after {limit:g} s"
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return f"ended with {done.returncode}: {last}"[:200]


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def shown(line: dict[str, Any]) -> str:
    """A line of results for a person."""
    what = f"{line['shape']:12} {line['trainer']:36}"
    if "error" in line:
        return f"{what} {line['error']}"
    spread = f"{line['ms']:9.2f} ms ({line['ms_min']:.2f} to {line['ms_max']:.2f})"
    return f"{what} {line['tokens_per_second']:12,.0f} tokens/s {spread} {line['peak_gib']:6.2f} GiB L0 {line['l0']:.1f}"


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; what is not given follows from the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", help="S1 to S4 or toy, with @BATCH and :encode; S1 on a CPU, the issue's on a GPU")
    parser.add_argument("--trainers", nargs="+", default=[""], help="names or beginnings of names")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--warmup", type=int, help="steps that are not timed")
    parser.add_argument("--steps", type=int, help="steps that are")
    parser.add_argument("--seconds", type=float, default=10, help="that either may take, but for 2 and 5 steps")
    parser.add_argument("--cpu-time", action="store_true", help="of a CPU that is busy with other work: count this work's share, 1 thread")
    parser.add_argument("--limit", type=float, default=240, help="seconds that a trainer may take for a shape")
    arguments = parser.parse_args(argv)
    on_gpu = arguments.device == "cuda"
    arguments.shapes = arguments.shapes or (["S1", "S2", "S3", "S4", "S4@8192", "S2@16384", "S2:encode"] if on_gpu else ["S1"])
    arguments.warmup = arguments.warmup or (8 if on_gpu else 2)
    arguments.steps = arguments.steps or (40 if on_gpu else 5)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the comparison."""
    arguments = parsed(argv)
    for name in arguments.shapes:
        Shape.parse(name)
    trainers = chosen(arguments.trainers)
    command = shlex.join(["python", "tests/benchmarks/speed/run.py", *(sys.argv[1:] if argv is None else argv)])
    facts = {**machine(arguments.device, arguments.threads), "command": command, **_clock(arguments)}
    with arguments.out.open("a") as file:
        file.write(json.dumps({"machine": facts}) + "\n")
    began = time.monotonic()
    for trainer in trainers:
        first = _lines(arguments.out)
        run_one(trainer, arguments)
        for line in arguments.out.read_text().splitlines()[first:]:
            print(shown(json.loads(line)), flush=True)
    print(f"{time.monotonic() - began:.0f} s in all; a table: python tests/benchmarks/speed/table.py {arguments.out}")


if __name__ == "__main__":
    main()
