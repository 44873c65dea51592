"""Progress of long work: what is being done, how far it is, at what rate, and how long it will still take.

Library code wraps its loop in `track(...)` and knows nothing of terminals. Nothing is shown unless the caller opens `shown()`, as the
command line does; notebooks and tests stay quiet.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")

_PLAIN_SECONDS = 15.0
_bars: ContextVar[Progress | None] = ContextVar("saelab_progress", default=None)


class _Rate(ProgressColumn):
    """Units a second, such as "12,345 tokens/s"."""

    def render(self, task: Task) -> Text:
        """The text of the column for one task."""
        speed = task.finished_speed or task.speed or 0.0
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed >= 10 else f"{speed:.2f} {task.fields['unit']}/s")


@contextmanager
def shown() -> Generator[None]:
    """Shows the progress of everything that is tracked inside: bars on a terminal, a line every 15 seconds elsewhere."""
    bars = Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=Console(stderr=True),
        speed_estimate_period=60,
    )
    token = _bars.set(bars)
    try:
        if bars.console.is_terminal:
            with bars:
                yield
        else:
            yield
    finally:
        _bars.reset(token)


def note(text: str) -> None:
    """Says something about the work under way, where progress is shown."""
    bars = _bars.get()
    if bars is not None:
        bars.console.print(text, highlight=False, markup=False)


def track(
    items: Iterable[T], *, stage: str, total: int | None, unit: str, done: int = 0, size: int | Callable[[T], int] = 1
) -> Iterator[T]:
    """Passes the items on and reports how far the work is.

    Arguments:
    - `stage`: what is being done, one or two words ("capture").
    - `total`: how many units there are in all; none where nobody knows.
    - `unit`: what is counted, plural ("tokens").
    - `done`: units that an earlier run already did.
    - `size`: units that one item stands for (the last may stand for fewer), or a function that counts an item's units.
    """
    bars = _bars.get()
    if bars is None:
        yield from items
    elif bars.console.is_terminal:
        task = bars.add_task(stage, total=total, completed=done, unit=unit)
        for item in items:
            yield item
            done = _after(done, item, size, total)
            bars.update(task, completed=done)
        bars.update(task, completed=done, total=done)
    else:
        yield from _lines(bars.console, items, stage, total, unit, done, size)


def _after(count: int, item: T, size: int | Callable[[T], int], total: int | None) -> int:
    count += size if isinstance(size, int) else size(item)
    return count if total is None else min(total, count)


def _lines(
    console: Console, items: Iterable[T], stage: str, total: int | None, unit: str, done: int, size: int | Callable[[T], int]
) -> Iterator[T]:
    begin = last = time.monotonic()
    count = done
    for item in items:
        yield item
        count = _after(count, item, size, total)
        now = time.monotonic()
        if now - last >= _PLAIN_SECONDS:
            last = now
            rate = (count - done) / (now - begin)
            left = f", {(total - count) / rate if rate else 0.0:,.0f} s left" if total is not None else ""
            of = f"/{total:,}" if total is not None else ""
            console.print(f"{stage}: {count:,}{of} {unit}, {rate:,.1f} {unit}/s{left}", highlight=False)
    seconds = time.monotonic() - begin
    rate = (count - done) / seconds if seconds else 0.0
    console.print(f"{stage}: {count:,} {unit} done in {seconds:,.1f} s ({rate:,.1f} {unit}/s)", highlight=False)
