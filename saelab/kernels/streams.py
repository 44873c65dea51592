"""Work that a GPU does beside its main work: many short steps, whose results are not needed soon."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

import torch

_asked: set[torch.device] = set()
"""Devices with work aside that nothing has waited for yet."""


@cache
def _side(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def aside(device: torch.device) -> Generator[None]:
    """What is asked of the GPU inside is done beside what is asked of it afterwards, until `rejoin`."""
    side = _side(device)
    side.wait_stream(torch.cuda.current_stream(device))
    _asked.add(device)
    with torch.cuda.stream(side):
        yield


def rejoin(device: torch.device) -> None:
    """Results of all that was asked inside `aside` may be used from here on. Where nothing was asked, it waits for nothing."""
    if device in _asked:
        _asked.remove(device)
        torch.cuda.current_stream(device).wait_stream(_side(device))
