"""What a second GPU gives: tokens a second of one and of all processes, and a dictionary that needs both.

    torchrun --nproc-per-node 2 tests/benchmarks/two_gpus.py

Prints a JSON line a measurement: the training step with all its bookkeeping, the median of some steps after others to warm up; products in
bf16 on GPUs, tiny shapes on a CPU. `weak` and `strong` are tokens a second over those of one process, at its own batch and at that of all.
"""

import json
import statistics
import time
from itertools import cycle, islice

import torch
import torch.distributed as dist

from saelab.devices import usable
from saelab.distributed.group import Group
from saelab.distributed.job import joined
from saelab.distributed.ranks import ALONE
from saelab.saes.topk import TopK
from saelab.training import TrainConfig, Trainer

WARM, STEPS, BATCHES = 10, 30, 4


def rows(count, d_in, device, seed):
    """A mean, Zipf-distributed sparse features and noise: never alike, never zero."""
    noise = torch.Generator(device).manual_seed(seed)
    directions = torch.randn(4096, d_in, device=device, generator=torch.Generator(device).manual_seed(0))
    shares = 1 / torch.arange(1, 4097, device=device)
    some = torch.multinomial(shares.expand(count, -1), 24, generator=noise)
    mean = torch.linspace(-2, 2, d_in, device=device)
    return directions[some].sum(1) / 5 + mean + 0.3 * torch.randn(count, d_in, device=device, generator=noise)


def trainer(ranks, device, d_in, d_sae, k, batch):
    settings = TrainConfig(
        steps=10**6, batch_size=batch, precision="bf16" if device.type == "cuda" else "fp32", warmup=10, dead_after=10_000_000
    )
    dictionary = ranks.hold(lambda: TopK(d_in, TopK.Config(d_sae=d_sae, k=k)), device)
    made = Trainer(dictionary, settings, ranks=ranks)
    made.initialise(rows(4096, d_in, device, 0))
    return made


def seconds_of(made, batches, device):
    """Seconds of each step; a GPU is waited for after each."""
    taken = []
    for x in islice(cycle(batches), WARM + STEPS):
        began = time.perf_counter()
        made.step(x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return taken[WARM:]


def measured(ranks, rank, device, d_in, d_sae, k, batch):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    made = trainer(ranks, device, d_in, d_sae, k, batch)
    batches = [rows(batch // ranks.size, d_in, device, 1 + number * ranks.size + rank) for number in range(BATCHES)]
    step = statistics.median(seconds_of(made, batches, device))
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    loss = float(made.sums["loss"]) / made.steps_done
    return {"tokens_per_second": round(batch / step), "step_ms": round(1e3 * step, 3), "peak_gib": peak, "loss": round(loss, 4)}


def compare(job, device, name, d_in, d_sae, k, batch, shards):
    """One process alone, at its batch and at that of all; then all of them."""
    shape = {"case": name, "d_in": d_in, "d_sae": d_sae, "k": k}
    alone = {}
    for size in (batch, batch * job.size):
        found = job.led(lambda size=size: measured(ALONE, 0, device, d_in, d_sae, k, size))
        alone[size] = found
        say(job, {**shape, "processes": 1, "batch": size, **(found or {})})
    found = measured(Group(job, shards, device), job.rank, device, d_in, d_sae, k, batch * job.size)
    if job.leads:
        weak, strong = (found["tokens_per_second"] / alone[size]["tokens_per_second"] for size in alone)
        say(job, {**shape, "processes": job.size, "shards": shards, "batch": batch * job.size, **found, "weak": weak, "strong": strong})


def say(job, line):
    if job.leads:
        print(json.dumps(line), flush=True)


def main():
    with joined() as job:
        device = usable("auto")
        cuda = device.type == "cuda"
        if cuda and job.leads:
            say(job, {"device": torch.cuda.get_device_name(device), "torch": torch.__version__, "nccl": torch.cuda.nccl.version()})
        torch.set_num_threads(1 if not cuda else torch.get_num_threads())
        small = {"d_in": 32, "d_sae": 256, "k": 4, "batch": 64}
        compare(job, device, "S2 data parallel", **({"d_in": 768, "d_sae": 24_576, "k": 32, "batch": 4096} if cuda else small), shards=1)
        s4 = {"d_in": 4096, "d_sae": 131_072, "k": 64, "batch": 4096}
        compare(job, device, "S4 divided by features", **(s4 if cuda else small), shards=job.size)
        million = (2304, 2**20, 64, 4096) if cuda else (32, 1024, 4, 64)
        found = measured(Group(job, job.size, device), job.rank, device, *million)
        say(job, {"case": "a million features", "processes": job.size, "shards": job.size, **found})
        dist.barrier()


if __name__ == "__main__":
    main()
