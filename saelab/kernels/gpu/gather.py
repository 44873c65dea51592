"""Dot products with, and weighted sums of, the weight rows that indices name. Sums are in float32 whatever the weights are in.

A thread reads eight neighbouring bfloat16 numbers of a row, and a warp a tile of 256: of several rows where a block of columns is short, so
that no warp is idle and no sum crosses a warp.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float, Int
from torch import Tensor

from saelab.kernels.low import keep_low, keep_row_norms

TILE = 256
"""Numbers of a tile that one warp reads at a time."""
_PARTS = 4
"""Programs among which the dot products of a row are divided where rows have unlike numbers of them."""


@triton.jit
def _span(starts, row, k, RAGGED: tl.constexpr):
    """Where the entries of a row begin and end."""
    begin, end = row * k, row * k + k
    if RAGGED:
        begin, end = tl.load(starts + row), tl.load(starts + row + 1)
    return begin, end


@triton.jit
def _row_sum(values, indices, weight, starts, row, column, k, width, RAGGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A block of columns of one row's sum."""
    begin, end = _span(starts, row, k, RAGGED)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(begin, end, ROWS):
        entry = first + tl.arange(0, ROWS)
        feature = tl.load(indices + entry, mask=entry < end, other=0).to(tl.int64)
        value = tl.load(values + entry, mask=entry < end, other=0.0)
        part = tl.load(weight + feature[:, None] * width + column[None, :], mask=(column < width)[None, :], other=0.0)
        total += value[:, None] * part.to(tl.float32)
    return tl.sum(total, axis=0)


@triton.jit
def _sums_kernel(values, indices, weight, starts, out, k, width, RAGGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A block of columns of one row's sum."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    found = _row_sum(values, indices, weight, starts, row, column, k, width, RAGGED, ROWS, COLUMNS)
    tl.store(out + row * width + column, found, mask=column < width)


@triton.jit
def _residual_kernel(
    values, indices, weight, wanted, shift, starts, residual, copy, squares, k, width, blocks, RAGGED: tl.constexpr, SHIFT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A block of columns of what one row's sum leaves of wanted - shift, in both precisions, and the sum of its squares."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    left = tl.load(wanted + row * width + column, mask=inside, other=0.0).to(tl.float32)
    if SHIFT:
        left -= tl.load(shift + column, mask=inside, other=0.0)
    left -= _row_sum(values, indices, weight, starts, row, column, k, width, RAGGED, ROWS, COLUMNS)
    tl.store(residual + row * width + column, left, mask=inside)
    tl.store(copy + row * width + column, left.to(copy.dtype.element_ty), mask=inside)
    tl.store(squares + row * blocks + tl.program_id(1), tl.sum(tl.where(inside, left * left, 0.0)))


@triton.jit
def _centre_kernel(rows, offset, out, norms, width, COLUMNS: tl.constexpr):
    """A row less the offset, in bfloat16, and its norm."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((COLUMNS,), tl.float32)
    for low in range(0, width, COLUMNS):
        column = low + tl.arange(0, COLUMNS)
        inside = column < width
        found = tl.load(rows + row * width + column, mask=inside, other=0.0).to(tl.float32)
        found -= tl.load(offset + column, mask=inside, other=0.0)
        tl.store(out + row * width + column, found.to(out.dtype.element_ty), mask=inside)
        total += found * found
    tl.store(norms + row, tl.sqrt(tl.sum(total)))


@triton.jit
def _dots_kernel(
    x, weight, bias, unit, indices, starts, out, k, width, RAGGED: tl.constexpr, BIAS: tl.constexpr, UNIT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The dot products of one row, or every so many of them: rows of unlike length are divided among programs."""
    row = tl.program_id(0).to(tl.int64)
    begin, end = _span(starts, row, k, RAGGED)
    for first in range(begin + ROWS * tl.program_id(1), end, ROWS * tl.num_programs(1)):
        entry = first + tl.arange(0, ROWS)
        feature = tl.load(indices + entry, mask=entry < end, other=0).to(tl.int64)
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for low in range(0, width, COLUMNS):
            column = low + tl.arange(0, COLUMNS)
            inside = (column < width)[None, :]
            read = tl.load(x + row * width + column, mask=column < width, other=0.0).to(tl.float32)
            part = tl.load(weight + feature[:, None] * width + column[None, :], mask=inside, other=0.0)
            total += read[None, :] * part.to(tl.float32)
        found = tl.sum(total, axis=1)
        if BIAS:
            found += tl.load(bias + feature, mask=entry < end, other=0.0)
        if UNIT:
            found *= tl.load(unit)
        tl.store(out + entry, found, mask=entry < end)


def columns_of(width: int) -> int:
    """The longest block of columns that a warp reads at once of which rows of this width are made without a rest, or nearly."""
    return next((size for size in (TILE, 128) if width % size == 0), 64)


def sums(
    values: Float[Tensor, "*codes"], indices: Int[Tensor, "*codes"], weight: Float[Tensor, "d_sae width"], starts: Tensor | None
) -> Float[Tensor, "row width"]:
    """Sums of weight rows, each times its value."""
    rows, width = len(indices) if starts is None else len(starts) - 1, weight.shape[1]
    out = torch.empty(rows, width, dtype=torch.float32, device=weight.device)
    if rows:
        columns = columns_of(width)
        _sums_kernel[(rows, triton.cdiv(width, columns))](
            values, indices, weight, indices if starts is None else starts, out, indices.shape[-1], width, starts is not None,
            4 * TILE // columns, columns, num_warps=1,
        )  # fmt: skip
    return out


def residuals(
    values: Float[Tensor, "*codes"], indices: Int[Tensor, "*codes"], weight: Float[Tensor, "d_sae width"], starts: Tensor | None,
    wanted: Float[Tensor, "row width"], shift: Float[Tensor, " width"] | None,
) -> tuple[Float[Tensor, "row width"], Float[Tensor, "row block"]]:  # fmt: skip
    """What the sums leave of wanted - shift, with its bfloat16 copy; and the sums of its squares over each block of each row."""
    rows, width = wanted.shape
    columns = columns_of(width)
    blocks = triton.cdiv(width, columns)
    residual = torch.empty(rows, width, dtype=torch.float32, device=weight.device)
    copy, squares = torch.empty_like(residual, dtype=torch.bfloat16), torch.empty(rows, blocks, device=weight.device)
    _residual_kernel[(rows, blocks)](
        values, indices, weight, wanted, wanted if shift is None else shift, indices if starts is None else starts, residual, copy, squares,
        indices.shape[-1], width, blocks, starts is not None, shift is not None, 4 * TILE // columns, columns, num_warps=1,
    )  # fmt: skip
    keep_low(residual, copy)
    return residual, squares


def centred(rows: Float[Tensor, "row width"], offset: Float[Tensor, " width"]) -> BFloat16[Tensor, "row width"]:
    """Rows less an offset, in bfloat16; their norms are kept with them."""
    out = torch.empty_like(rows, dtype=torch.bfloat16)
    norms = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    columns = min(1024, triton.next_power_of_2(rows.shape[1]))
    _centre_kernel[(len(rows),)](rows, offset, out, norms, rows.shape[1], columns, num_warps=4)
    keep_row_norms(out, norms)
    return out


def dots(
    x: Float[Tensor, "row width"], weight: Float[Tensor, "d_sae width"], bias: Tensor | None, indices: Int[Tensor, "*codes"],
    starts: Tensor | None, unit: Float[Tensor, ""] | None = None,
) -> Float[Tensor, "*codes"]:  # fmt: skip
    """Dot products of each row of x with the weight rows that its indices name, plus their bias where there is one; times a unit."""
    out = torch.empty(indices.shape, dtype=torch.float32, device=weight.device)
    if len(x):
        _dots_kernel[(len(x), 1 if starts is None else _PARTS)](
            x, weight, weight if bias is None else bias, weight if unit is None else unit, indices, indices if starts is None else starts,
            out, indices.shape[-1], weight.shape[1], starts is not None, bias is not None, unit is not None, 16, 64, num_warps=4,
        )  # fmt: skip
    return out
