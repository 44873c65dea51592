"""Trains and judges a file of jobs on all GPUs: `python grid.py JOBS.json TOKENS.npz.xz --model DIR --out FILE.jsonl --budget SECONDS`.

A worker process a GPU captures its own rows and takes jobs from one queue, the longest first. Every result is appended to the file at once;
a job that fails is recorded with its error. No job is begun that would not end within the budget.

The file of jobs holds `defaults` of all jobs and `jobs`. A job has a `trainer` (saelab, sae_lens, dictionary_learning), an `architecture`,
`steps`, `batch`, `d_sae`, `seconds` (what it is expected to take) and what `ours.py` or `peers.py` reads.
"""

import argparse
import json
import queue
import time
import traceback
from pathlib import Path
from typing import Any

import ours
import peers
import torch
from evaluate import Judge
from rows import Rows, Text, capture, load_subject
from table import table
from torch import multiprocessing

Job = dict[str, Any]


def described(job: Job) -> str:
    """The job's name: all that it does not share with the others."""
    hidden = {"trainer", "architecture", "seconds", "steps", "batch", "d_sae"}
    parts = {key: value for key, value in job.items() if key not in hidden}
    nested = {**parts.pop("config", {}), **parts.pop("train", {}), **parts}
    return " ".join([job["trainer"], job["architecture"], *(f"{key}={value}" for key, value in nested.items())])


def read_jobs(file: Path) -> list[Job]:
    found = json.loads(file.read_text())
    return sorted(({**found["defaults"], **job} for job in found["jobs"]), key=lambda job: -job["seconds"])


def run(job: Job, rows: Rows, judge: Judge) -> dict[str, Any]:
    """Trains and judges one job."""
    began = time.perf_counter()
    reconstruct = (ours if job["trainer"] == "saelab" else peers).train(job, rows)
    _wait(rows)
    trained = time.perf_counter()
    found = judge.judge(reconstruct, job["steps"], job["batch"])
    _wait(rows)
    return {
        **found,
        "train_seconds": trained - began,
        "judge_seconds": time.perf_counter() - trained,
        "rows_per_second": job["steps"] * job["batch"] / (trained - began),
    }


def _wait(rows: Rows) -> None:
    if rows.train.is_cuda:
        torch.cuda.synchronize(rows.train.device)


def work(number: int, jobs: Any, results: Any, arguments: argparse.Namespace, ends: float) -> None:
    """Takes jobs until there are none or the time is up."""
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(arguments.threads)
    device = f"cuda:{number % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)
    began = time.time()
    text = Text.read(arguments.tokens, arguments.windows)
    subject = load_subject(arguments.model, device)
    rows = capture(subject, text, arguments.batch_windows)
    judge = Judge.prepare(subject, text, rows, arguments.loss_windows)
    facts = {"device": device, "train": len(rows.train), "held_out": len(rows.held_out), "limit": rows.limit, "scale": float(rows.scale)}
    results.put({"capture": facts, "seconds": time.time() - began, "ce_clean": float(judge.clean.sum())})
    while True:
        try:
            job = jobs.get(timeout=1)
        except queue.Empty:
            break
        if time.time() + job["seconds"] > ends:
            results.put({"name": described(job), "skipped": "no time left"})
            continue
        try:
            found: dict[str, Any] = run(job, rows, judge)
        except Exception as error:  # one job's failure must not end the grid
            found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()[-2000:]}
        results.put({"name": described(job), "job": job, **found, "device": device})
        _wait(rows)  # fails where a job has left the device unusable: this worker must then leave the queue to the others
    results.put(None)


def collect(results: Any, workers: list[Any], out: Path) -> list[dict[str, Any]]:
    """Writes down what the workers report until all have ended."""
    found: list[dict[str, Any]] = []
    left = len(workers)
    while left:
        try:
            result = results.get(timeout=5)
        except queue.Empty:
            left = left if any(worker.is_alive() for worker in workers) else 0
            continue
        if result is None:
            left -= 1
            continue
        found.append(result)
        with out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        shown = {key: value for key, value in result.items() if key not in {"job", "traceback"}}
        print(json.dumps(shown), flush=True)
    return found


def main() -> None:
    """Runs the grid and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--model", required=True, help="Hugging Face directory or GGUF file of SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, required=True, help="seconds from now in which all must end")
    parser.add_argument("--workers", type=int, default=max(1, torch.cuda.device_count()))
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--windows", type=int, help="windows spread over the text; all if not given")
    parser.add_argument("--loss-windows", type=int, default=512)
    parser.add_argument("--batch-windows", type=int, default=512)
    parser.add_argument("--done", type=Path, help="results of an earlier run, whose jobs are left out")
    arguments = parser.parse_args()
    ends = time.time() + arguments.budget
    done = (
        {json.loads(line).get("name") for line in arguments.done.read_text().splitlines() if '"fvu"' in line} if arguments.done else set()
    )
    chosen = [job for job in read_jobs(arguments.jobs) if described(job) not in done]
    load_subject(arguments.model, "cpu")  # converts a GGUF file once, before the workers need it
    context = multiprocessing.get_context("spawn")
    jobs, results = context.Queue(), context.Queue()
    for job in chosen:
        jobs.put(job)
    workers = [context.Process(target=work, args=(i, jobs, results, arguments, ends)) for i in range(arguments.workers)]
    for worker in workers:
        worker.start()
    found = collect(results, workers, arguments.out)
    print(table(found))


if __name__ == "__main__":
    main()
