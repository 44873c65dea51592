"""What nested dictionaries leave, in one pass over the codes (`saelab.kernels.nested`). A group of a row is to the other kernels a row."""

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float, Int
from torch import Tensor

from saelab.kernels.gpu.gather import _row_sum, columns_of
from saelab.kernels.low import keep_row_norms


@triton.jit
def _starts_kernel(indices, starts, firsts, out, GROUPS: tl.constexpr, PADDED: tl.constexpr, SIZE: tl.constexpr):
    """Where the groups of a row begin: after the entries of features before their first; and where the last one ends."""
    row = tl.program_id(0)
    begin, end = tl.load(starts + row), tl.load(starts + row + 1)
    group = tl.arange(0, PADDED)
    first = tl.load(firsts + group, mask=group < GROUPS, other=0)
    before = tl.zeros((PADDED,), tl.int32)
    for low in range(begin, end, SIZE):
        entry = low + tl.arange(0, SIZE)
        feature = tl.load(indices + entry, mask=entry < end, other=0)
        before += tl.sum(((feature[None, :] < first[:, None]) & (entry < end)[None, :]).to(tl.int32), axis=1)
    tl.store(out + row * GROUPS + group, begin + before, mask=group < GROUPS)
    tl.store(out + (row + 1) * GROUPS, end, mask=row == tl.num_programs(0) - 1)


@triton.jit
def _rests_kernel(
    values, indices, weight, wanted, shift, bounds, rests, residual, squares, sizes, groups, width, blocks, SHIFT: tl.constexpr,
    ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A block of columns of what a row leaves after each group, and its squares; then, from the last group on, the rests and theirs."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    left = tl.load(wanted + row * width + column, mask=inside, other=0.0).to(tl.float32)
    if SHIFT:
        left -= tl.load(shift + column, mask=inside, other=0.0)
    square = tl.zeros((COLUMNS,), tl.float32)
    for group in range(groups):
        place = row * groups + group
        left -= _row_sum(values, indices, weight, bounds, place, column, 0, width, True, ENTRIES, COLUMNS)
        tl.store(rests + place * width + column, left.to(rests.dtype.element_ty), mask=inside)
        square += left * left
    tl.store(residual + row * width + column, left, mask=inside)
    tl.store(squares + row * blocks + block, tl.sum(square))
    last = row * groups + groups - 1
    tl.store(sizes + last * blocks + block, tl.sum(left * left))
    tl.debug_barrier()
    rest = left
    for step in range(1, groups):
        place = last - step
        rest += tl.load(rests + place * width + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(rests + place * width + column, rest.to(rests.dtype.element_ty), mask=inside)
        tl.store(sizes + place * blocks + block, tl.sum(rest * rest))


def group_starts(
    indices: Int[Tensor, " n"], starts: Int[Tensor, " row_starts"], firsts: Int[Tensor, " group"]
) -> Int[Tensor, " group_starts"]:  # fmt: skip
    """Where each group of each row begins, row after row, and where the last one ends."""
    rows, groups = len(starts) - 1, len(firsts)
    out = torch.empty(rows * groups + 1, dtype=starts.dtype, device=starts.device)
    _starts_kernel[(rows,)](indices, starts, firsts, out, groups, triton.next_power_of_2(groups), 64, num_warps=1)
    return out


def rests(
    values: Float[Tensor, " n"], indices: Int[Tensor, " n"], weight: BFloat16[Tensor, "d_sae width"], bounds: Int[Tensor, " group_starts"],
    groups: int, wanted: Float[Tensor, "row width"], shift: Float[Tensor, " width"] | None,
) -> tuple[BFloat16[Tensor, "row_groups width"], Float[Tensor, "row width"], Float[Tensor, ""], Float[Tensor, ""]]:  # fmt: skip
    """For each group of each row the sum of what it and the groups after it leave of wanted - shift; the norms of these are kept with them.

    And what the last group leaves, the sum of the squares of what all leave, and of what the last one does.
    """
    (rows, width), device = wanted.shape, weight.device
    columns = columns_of(width)
    blocks = triton.cdiv(width, columns)
    out = torch.empty(rows * groups, width, dtype=torch.bfloat16, device=device)
    residual = torch.empty(rows, width, dtype=torch.float32, device=device)
    squares, sizes = torch.empty(rows, blocks, device=device), torch.empty(rows * groups, blocks, device=device)
    _rests_kernel[(rows, blocks)](
        values, indices, weight, wanted, wanted if shift is None else shift, bounds, out, residual, squares, sizes, groups, width, blocks,
        shift is not None, 4 if columns < 128 else 8, columns, num_warps=1,
    )  # fmt: skip
    of_rows = sizes.sum(1)
    keep_row_norms(out, of_rows.sqrt())
    return out, residual, squares.sum(), of_rows.view(rows, groups)[:, -1].sum()
