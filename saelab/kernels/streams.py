"""Work that a GPU does beside its main work: many short steps, whose results are not needed soon."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch

Lane = Literal["order", "counts", "sums", "others", "copies"]
"""What is done aside: the order of entries by feature; what is counted for the log; sums for one of two weights; and between processes
what each tells the others of its entries, and the copies of weights."""
_asked: set[tuple[torch.device, Lane]] = set()
"""Devices and lanes with work that nothing has waited for yet."""


@cache
def _side(device: torch.device, lane: Lane) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1 if lane == "copies" else 0)  # a wide kernel before it would leave it no room


@contextmanager
def aside(device: torch.device, lane: Lane) -> Generator[None]:
    """What is asked of a GPU inside is done beside what is asked of it afterwards, until `rejoin`. Other devices know no such thing."""
    if device.type != "cuda":
        yield
        return
    side = _side(device, lane)
    side.wait_stream(torch.cuda.current_stream(device))
    _asked.add((device, lane))
    with torch.cuda.stream(side):
        yield


def rejoin(device: torch.device, lane: Lane) -> None:
    """Results of all that was asked aside may be used from here on. Where nothing was asked, it waits for nothing."""
    if (device, lane) in _asked:
        _asked.remove((device, lane))
        torch.cuda.current_stream(device).wait_stream(_side(device, lane))
