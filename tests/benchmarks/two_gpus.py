"""What a second GPU gives: tokens a second of one and of both, and a dictionary that needs both.

    python tests/benchmarks/two_gpus.py [PART ...]

Starts torchrun once a part, so that a part that fails or hangs does not end the others, and prints a JSON line a measurement: the training
step with all its bookkeeping, products in bf16 on GPUs; tiny shapes on a CPU. `times` are tokens a second of both processes over those of
one alone, which has half as many rows in its batch. By rows both are measured twice, with steps that are recorded last. `profile` has the
most expensive kernels of process 0: name, microseconds and number a step. Takes 110 seconds at most.
"""

import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from itertools import cycle

import torch
from machine import opening
from torch.nn import functional

from saelab.devices import usable
from saelab.distributed.group import Group
from saelab.distributed.job import joined
from saelab.distributed.ranks import Ranks
from saelab.saes.topk import TopK
from saelab.training import TrainConfig, Trainer

SECONDS = 110
PARTS = {  # seconds at most; width, features, k, rows of a process; whether features are divided; how many times so many steps are timed
    "S2 by rows": (60, (768, 24_576, 32, 4096), False, (5, 40)),
    "S4 by features": (50, (4096, 131_072, 64, 4096), True, (3, 10)),
    "1M features": (40, (2304, 2**20, 64, 2048), True, (1, 5)),
}
HOW = """\
One process alone, then two on GPUs of one host at twice the batch. `times`: tokens a second of both over those of one."""
SMALL = (32, 1024, 4, 64)
DIRECTIONS, ACTIVE, BATCHES, WARM, PROFILED, KERNELS = 4096, 24, 4, 20, 5, 12


def rows(count, d_in, device, seed):
    """A mean, Zipf-distributed sparse features and noise: never alike, never zero."""
    noise = torch.Generator(device).manual_seed(seed)
    directions = torch.randn(DIRECTIONS, d_in, device=device, generator=torch.Generator(device).manual_seed(0))
    chance = (1 / torch.arange(1, DIRECTIONS + 1, device=device)).cumsum(0)
    drawn = chance[-1] * torch.rand(count, ACTIVE, device=device, generator=noise)
    sparse = functional.embedding_bag(torch.searchsorted(chance, drawn).clamp(max=DIRECTIONS - 1), directions, mode="sum") / 5
    return sparse + torch.linspace(-2, 2, d_in, device=device) + 0.3 * torch.randn(count, d_in, device=device, generator=noise)


def trainer(ranks, device, d_in, d_sae, k, batch):
    """Ready to step. Its first weights are drawn on the device: on a CPU, where they do not depend on it, that takes half a minute."""
    precision = "bf16" if device.type == "cuda" else "fp32"
    settings = TrainConfig(steps=50_000, batch_size=batch, precision=precision, dead_after=10_000_000)

    def drawn(d_sae, width, _):
        return torch.randn(d_sae // ranks.shards, width, device=device, generator=torch.Generator(device).manual_seed(ranks.first))

    ranks.drawn = drawn
    with torch.device(device):
        dictionary = ranks.hold(lambda: TopK(d_in, TopK.Config(d_sae=d_sae, k=k)), device)
    dictionary.ranks = ranks
    made = Trainer(dictionary, settings, ranks=ranks)
    made.initialise(rows(4096, d_in, device, 0))
    return made


def measured(ranks, rank, device, d_in, d_sae, k, batch, times, steps, profiled=False):
    """A training's speed, peak memory and mean loss; and, where asked for, what some steps consist of."""
    made = trainer(ranks, device, d_in, d_sae, k, batch)
    batches = cycle([rows(batch // ranks.size, d_in, device, 1 + number * ranks.size + rank) for number in range(BATCHES)])
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)

    def run(count):
        began = time.perf_counter()
        for _ in range(count):
            made.step(next(batches))
            if made.due():
                made.row()
        if cuda:
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) / count

    run(min(WARM, 4 * steps))
    step = statistics.median(run(steps) for _ in range(times))
    peak = round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if cuda else None
    run(1)  # a line of the log needs a step, and the last one may have come with the last line
    loss = made.row().metrics["loss"]
    found = {"tokens_per_second": round(batch / step), "step_ms": round(1e3 * step, 3), "peak_gib": peak, "loss": round(loss, 4)}
    if profiled:
        found["profile"] = profile(lambda: run(PROFILED), cuda) if rank == 0 else run(PROFILED)
    made.close()
    return found


def profile(work, cuda):
    """Of the most expensive kernels microseconds and number a step; and the share of the time in which none ran."""
    kind = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind]) as found:
        work()
    device = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    events = sorted((event for event in found.events() if event.device_type == device), key=lambda event: event.time_range.start)
    kernels, busy, until = {}, 0.0, events[0].time_range.start
    for event in events:
        begin, end = event.time_range.start, event.time_range.end
        spent, number = kernels.get(event.name, (0.0, 0))
        kernels[event.name] = spent + end - begin, number + 1
        busy, until = busy + max(0.0, end - max(begin, until)), max(end, until)
    span = until - events[0].time_range.start
    most = sorted(kernels.items(), key=lambda item: -item[1][0])[:KERNELS]
    return {
        "step_us": round(span / PROFILED),
        "idle": round(1 - busy / span, 3),
        "in_all": round(len(events) / PROFILED, 1),
        "kernels": [[name[:60], round(spent / PROFILED, 1), round(number / PROFILED, 1)] for name, (spent, number) in most],
    }


def part(name):
    """A part, in each process of a job: one process alone where the dictionary has room there, then all."""
    _, (d_in, d_sae, k, batch), divided, timed = PARTS[name]
    with joined() as job:
        device = usable("auto")
        if device.type == "cpu":
            torch.set_num_threads(1)
            (d_in, d_sae, k, batch), timed = SMALL, (1, 5)
        shape, one, huge = {"d_in": d_in, "d_sae": d_sae, "k": k}, None, name.startswith("1M")
        if not huge:
            one = job.led(lambda: measured(Ranks(), 0, device, d_in, d_sae, k, batch, *timed))
            say(job, {**shape, "what": f"{name}, 1 GPU", "processes": 1, "batch": batch, **(one or {})})
        shape |= {"processes": job.size, "shards": job.size if divided else 1, "batch": batch * job.size}
        for recorded in (False,) if divided else (False, True):
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            ranks = Group(job, job.size if divided else 1, device)
            if not recorded:
                ranks.recordable = lambda _: False
            found = measured(ranks, job.rank, device, d_in, d_sae, k, batch * job.size, *timed, profiled=True)
            steps, what = found.pop("profile", None), f"{name}, {job.size} GPUs{', recorded' if recorded else ''}"
            times = {"times": round(found["tokens_per_second"] / one["tokens_per_second"], 3)} if one else {}
            say(job, {"what": what, **shape, **found, **times})
            if steps is not None:
                say(job, {"what": f"{what}, profile", "profile": steps})


def say(job, line):
    if job.leads:
        print(json.dumps(line), flush=True)


def launched(name, seconds):
    """torchrun for a part; what went wrong, if anything did."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, "--part", name]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, told = started.communicate(timeout=seconds)
        return None if started.returncode == 0 else told[-3000:]
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        return f"no end after {seconds:.0f} seconds: " + started.communicate()[1][-3000:]


def main(names):
    end = time.monotonic() + SECONDS
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    print(json.dumps(opening("two_gpus", "A trainer on two GPUs", HOW, kind)), flush=True)
    for name in names or PARTS:
        began, left = time.monotonic(), end - time.monotonic()
        wrong = launched(name, min(PARTS[name][0], left)) if left > 5 else "no time is left"
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"what": f"{name}, in all", "seconds": seconds, **({"error": wrong} if wrong else {})}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        part(sys.argv[2])
    else:
        main(sys.argv[1:])
