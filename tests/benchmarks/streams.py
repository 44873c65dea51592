"""What the streams of a GPU did while some work was done: how busy each was, and how long none was; and what the host did."""

import cProfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

_BUSY = 0.1
"""Share of the time from which a stream's work is told."""


def timeline(work: Callable[[], object]) -> dict[str, object]:
    """Share of the time in which a GPU did nothing, and of the busier streams' work, overall and in twenty parts of the time.

    The work is done twice: at first the profiler itself takes time.
    """
    once = torch.profiler.schedule(wait=0, warmup=1, active=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], schedule=once) as profile:
        work()
        torch.cuda.synchronize()
        profile.step()
        work()
        torch.cuda.synchronize()
    spans = [
        (event.start_ns(), event.start_ns() + event.duration_ns(), event.device_resource_id())
        for event in profile.profiler.kineto_results.events()
        if event.device_type() == torch.autograd.DeviceType.CUDA and "Sync" not in event.name()
    ]
    edges = np.linspace(min(span[0] for span in spans), max(span[1] for span in spans), 401)

    def busy(chosen: list[tuple[int, int, int]]) -> np.ndarray:
        """Share of each of 400 stretches of time that is covered."""
        covered, end = np.zeros(len(edges) - 1), edges[0]
        for begin, stop, _ in sorted(chosen):
            covered += np.clip(np.minimum(stop, edges[1:]) - np.maximum(max(begin, end), edges[:-1]), 0, None)
            end = max(end, stop)
        return covered / np.diff(edges)

    streams = {stream: busy([span for span in spans if span[2] == stream]) for stream in {span[2] for span in spans}}
    streams = {stream: covered for stream, covered in streams.items() if covered.mean() >= _BUSY}
    every = busy(spans)
    return {
        "gpu_idle": 1 - float(every.mean()),
        "streams": {stream: round(float(covered.mean()), 3) for stream, covered in streams.items()},
        "timeline": {stream: covered.reshape(20, -1).mean(1).round(2).tolist() for stream, covered in streams.items()},
        "longest_idle_ms": float(np.diff(edges)[0] / 1e6 * max_run(every < 0.05)),
    }


def max_run(flags: np.ndarray) -> int:
    """Length of the longest run of true."""
    runs: Iterator[str] = iter("".join("1" if flag else "0" for flag in flags).split("0"))
    return max(map(len, runs))


def host_profile(work: Callable[[], object]) -> list[str]:
    """The functions that the host spends most time in, in milliseconds of their own."""
    profile = cProfile.Profile()
    profile.runcall(work)
    found = sorted(profile.getstats(), key=lambda entry: -entry.inlinetime)[:16]
    return [f"{1e3 * entry.inlinetime:.1f} ms, {entry.callcount} calls: {_named(entry.code)}" for entry in found]


def _named(code: object) -> str:
    return code if isinstance(code, str) else f"{Path(code.co_filename).name}:{code.co_firstlineno} {code.co_name}"  # type: ignore[attr-defined]
