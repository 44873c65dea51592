"""When a device was busy with what: spans of a run, on the device's own clock."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Interval = tuple[float, float]
"""Beginning and end, in seconds since the timeline began."""


class Timeline:
    """Named spans; on a GPU they begin and end where the device does, not where Python does."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._began = self._now()
        self._spans: list[tuple[str, torch.cuda.Event | float, torch.cuda.Event | float]] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """What is done within belongs to the name."""
        begin = self._now()
        try:
            yield
        finally:
            self._spans.append((name, begin, self._now()))

    def intervals(self) -> dict[str, list[Interval]]:
        """All spans by name. Waits for the device."""
        if self.cuda:
            torch.cuda.synchronize()
        found: dict[str, list[Interval]] = {}
        for name, begin, end in self._spans:
            found.setdefault(name, []).append((self._since(begin), self._since(end)))
        return found

    def _now(self) -> "torch.cuda.Event | float":
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _since(self, mark: "torch.cuda.Event | float") -> float:
        if isinstance(mark, float):
            return mark - self._began  # type: ignore[operator]
        return self._began.elapsed_time(mark) / 1e3  # type: ignore[union-attr]


def busy(intervals: list[Interval], begin: float, end: float) -> float:
    """Seconds of a stretch that at least one of the intervals covers."""
    covered, reached = 0.0, begin
    for first, last in sorted(intervals):
        first, last = max(first, reached), min(last, end)
        if last > first:
            covered, reached = covered + last - first, last
    return covered


def shares(intervals: dict[str, list[Interval]], begin: float, end: float) -> dict[str, float]:
    """Share of a stretch in which each name was at work, and `waiting`, in which none was.

    The model runs within `rows`, where it is not counted.
    """
    every = [interval for spans in intervals.values() for interval in spans]
    found = {name: busy(spans, begin, end) / (end - begin) for name, spans in intervals.items()}
    if "rows" in found:
        found["rows"] -= found.get("model", 0.0)
    return {**found, "waiting": 1 - busy(every, begin, end) / (end - begin)}
