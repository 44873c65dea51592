"""The entries over thresholds and just under them, as lists in row order: one pass counts those of each row, a second one writes them.

A program has some rows and walks over their columns in blocks, so that thresholds are read once for all of them. Both marks of an entry
are halves of one number, so that one sum counts both.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saelab.kernels.threshold import Listed

_ROWS, _COLUMNS = 2, 256
"""Of a tile, which one warp works on and waits for no other; a count of columns must fit into half a number."""
_SIZE = 512
"""Entries that a program reads."""


@triton.jit
def _marks(pre, threshold, reach, row, column, rows, width):
    """Marks of a tile of pre-activations: 1 for over the threshold, 2¹⁶ for just under it."""
    inside = column < width
    bar = tl.load(threshold + column, mask=inside, other=float("inf"))[None, :]
    near = tl.load(reach + column, mask=inside, other=0.0)[None, :]
    real = (row < rows)[:, None] & inside[None, :]
    value = tl.load(pre + row[:, None] * width + column[None, :], mask=real, other=float("-inf")).to(tl.float32)
    over = value > bar
    under = (bar - value < near) & (over == 0)
    return over.to(tl.int32) + (under.to(tl.int32) << 16)


@triton.jit
def _count_kernel(pre, threshold, reach, counts, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """How many entries of each row are over, and how many just under."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    over, under = tl.zeros((ROWS,), tl.int32), tl.zeros((ROWS,), tl.int32)
    for first in range(0, width, COLUMNS):
        marks = _marks(pre, threshold, reach, row, first + tl.arange(0, COLUMNS), rows, width)
        found = tl.sum(marks, axis=1)
        over += found & 0xFFFF
        under += found >> 16
    tl.store(counts + row, over, mask=row < rows)
    tl.store(counts + rows + row, under, mask=row < rows)


@triton.jit
def _places_kernel(pre, threshold, reach, starts, places, rows, width, over_room, under_room, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Writes the flat places of the entries over, and behind the room for them those just under, as far as there is room."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    over = tl.load(starts + row, mask=row < rows, other=0)
    under = tl.load(starts + rows + 1 + row, mask=row < rows, other=0)
    for first in range(0, width, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        marks = _marks(pre, threshold, reach, row, column, rows, width)
        before = tl.cumsum(marks, axis=1) - marks
        place = row[:, None] * width + column[None, :]
        is_over = (marks & 0xFFFF) != 0
        number = tl.where(is_over, over[:, None] + (before & 0xFFFF), under[:, None] + (before >> 16))
        fits = (marks != 0) & (number < tl.where(is_over, over_room, under_room))
        tl.store(places + tl.where(is_over, number, over_room + number), place, mask=fits)
        found = tl.sum(marks, axis=1)
        over += found & 0xFFFF
        under += found >> 16


@triton.jit
def _read_kernel(pre, places, values, indices, rows, width, end, SIZE: tl.constexpr):
    """Value, feature and row at each place; 0 where there is none."""
    entry = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    place = tl.load(places + entry, mask=entry < end, other=-1)
    value = tl.load(pre + place, mask=place >= 0, other=0.0).to(tl.float32)
    place = tl.maximum(place, 0)
    tl.store(values + entry, value, mask=entry < end)
    tl.store(indices + entry, place % width, mask=entry < end)
    tl.store(rows + entry, place // width, mask=entry < end)


def listed(
    pre: Float[Tensor, "row d_sae"], threshold: Float[Tensor, " d_sae"], reach: Float[Tensor, " d_sae"], room: tuple[int, int]
) -> tuple[Listed, Listed]:
    """The entries over their thresholds, and those under them by less than their reach; lists have the lengths of `room`."""
    (rows, width), device, both = pre.shape, pre.device, sum(room)
    counts = torch.empty(2, rows, dtype=torch.int32, device=device)
    grid = (triton.cdiv(rows, _ROWS),)
    _count_kernel[grid](pre, threshold, reach, counts, rows, width, _ROWS, _COLUMNS, num_warps=1)
    starts = functional.pad(counts.cumsum(1), (1, 0))
    places = torch.full((both,), -1, dtype=torch.int64, device=device)
    _places_kernel[grid](pre, threshold, reach, starts, places, rows, width, *room, _ROWS, _COLUMNS, num_warps=1)
    values, indices, of_rows = torch.empty(both, device=device), torch.empty_like(places), torch.empty_like(places)
    _read_kernel[(triton.cdiv(both, _SIZE),)](pre, places, values, indices, of_rows, width, both, _SIZE, num_warps=4)
    over, under = (
        Listed(*parts, starts[number].clamp(max=room[number]), starts[number, -1])
        for number, parts in enumerate(zip(values.split(room), indices.split(room), of_rows.split(room), strict=True))
    )
    return over, under
