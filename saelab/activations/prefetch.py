"""Working ahead: the next item is made while one is in use, and tensors travel between host and GPU while both go on."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


AHEAD = 2
"""Pieces of work that a GPU has before it while it does one."""


def begun(works: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
    """What works give that wait for their results when they are called: each is called when so many after it have been begun."""
    coming: deque[Callable[[], T]] = deque()
    for work in works:
        coming.append(work)
        if len(coming) > ahead:
            yield coming.popleft()()
    while coming:
        yield coming.popleft()()


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made by one background thread while the one before it is in use; none of them may be `None`.

    Never more than two items are held: the current one, and the next. What making one raises is raised here, in its place. The thread ends
    with the iterator, at the latest when the item that it is making is made.
    """
    reader = ThreadPoolExecutor(1, thread_name_prefix="saelab-reader")
    try:
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item
            del item  # a third item is begun only when this one is free
    finally:
        reader.shutdown(cancel_futures=True)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. From host to GPU it goes through pinned memory, which PyTorch keeps for the next: nobody waits for it."""
    if device.type == "cuda" and not x.is_cuda:
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def sending(x: Tensor, device: torch.device) -> Callable[[], Tensor]:
    """Begins to send a tensor to a GPU, beside its work; the result gives it, for work that the GPU begins when it is there."""
    with torch.cuda.stream(copying(device)):
        there = sent(x, device)
        done = copying(device).record_event()

    def wait() -> Tensor:
        here = torch.cuda.current_stream(device)
        here.wait_event(done)
        there.record_stream(here)
        return there

    return wait


def fetched(*tensors: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Begins to copy tensors to the host; the result waits for them and gives them. The GPU goes on meanwhile with what comes next."""
    device = tensors[0].device
    if device.type != "cuda":
        return lambda: tuple(x.cpu() for x in tensors)
    stream = copying(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        here = tuple(x.to("cpu", non_blocking=True) for x in tensors)  # in pinned memory
        for x in tensors:
            x.record_stream(stream)
        done = stream.record_event(_sleeping())

    def wait() -> tuple[Tensor, ...]:
        done.synchronize()
        return here

    return wait


def passing(device: torch.device) -> AbstractContextManager[object]:
    """Inside, a GPU works on the stream of forward passes, one after another whoever wants them, and beside what else it does.

    It is also where they are recorded: what a recording uses, other passes may use, and nothing that runs beside them.
    """
    return torch.cuda.stream(_passing(device)) if device.type == "cuda" else nullcontext()


@cache
def _passing(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def ready_to_pass(device: torch.device) -> None:
    """Forward passes from here on come after what a GPU has been told by now, such as to change the subject's weights."""
    if device.type == "cuda":
        _passing(device).wait_stream(torch.cuda.current_stream(device))


@contextmanager
def beside(device: torch.device) -> Generator[None]:
    """Inside, a GPU copies beside its work, on a stream of its own; at the end the host, here a thread of its own, waits for it."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(copying(device)):
        yield
        done = copying(device).record_event(_sleeping())
    done.synchronize()


def _sleeping() -> torch.cuda.Event:
    """An event that threads sleep until; others keep a core, and the driver, busy while they wait."""
    return torch.cuda.Event(blocking=True)


@cache
def copying(device: torch.device) -> torch.cuda.Stream:
    """The stream on which copies leave a GPU beside its work."""
    return torch.cuda.Stream(device)
