"""Shapes of forward passes: which windows go through a subject together, and what they are padded to.

A recorded pass has the shape that it was recorded with, so those passes have few: lengths in eighths of the longest window, and windows in
eighths of as many as a pass has room for. What is added is never read: a causal model does not look to the right, nor at other windows.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

_SPARE_SHARE = 16
"""A pass ends before windows that are so much shorter that padding would take more than one part in so many of it."""
_STEPS = 8
"""Lengths, and numbers of windows of each length, that recorded passes have; padding to the next length may take one part in so many."""


def batches(lengths: Int[np.ndarray, " window"], batch_tokens: int, longest: int | None = None) -> Iterator[Int[np.ndarray, " window"]]:
    """Groups of windows for one forward pass, the longest first, each within the budget when padded to its longest.

    Arguments:
    - `lengths`: length of each window.
    - `batch_tokens`: tokens in a pass at most, padding included; one window at least.
    - `longest`: where passes shall have few shapes, the length of the longest window there is.
    """
    order = np.argsort(-lengths, kind="stable")
    spare = batch_tokens // (_STEPS if longest else _SPARE_SHARE)
    begin = 0
    while begin < len(order):
        length = int(lengths[order[begin]])
        length = _stepped(length, longest) if longest else length
        budget = lengths[order[begin : begin + max(1, batch_tokens // length)]]
        count = max(1, int((np.cumsum(length - budget) <= spare).sum()))
        yield order[begin : begin + count]
        begin += count


def padded(x: np.ndarray, batch_tokens: int, longest: int) -> np.ndarray:
    """What belongs to the positions of some windows, filled up with zeros to one of the few shapes."""
    rows, length = x.shape
    length = _stepped(length, longest)
    filled = np.zeros((_stepped(rows, max(1, batch_tokens // length)), length), x.dtype)
    filled[: x.shape[0], : x.shape[1]] = x
    return filled


def _stepped(number: int, most: int) -> int:
    """The next of the few numbers up to `most`."""
    step = -(-most // _STEPS)
    return min(most, -(-number // step) * step)
