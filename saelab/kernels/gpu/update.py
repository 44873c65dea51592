"""A step of Adam on a weight whose gradient is a sum of outer products: the gradient of a row exists only in registers.

    gradient[f] = Σ over the entries of feature f of value · x[row]          less its part along weight[f], where rows stay at norm 1

Two passes over the entries: one for the norm by which all gradients are clipped together, and one that steps. The second writes the
bfloat16 copy of the weight too. A program is a feature, and walks over its row in blocks of columns.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float
from torch import Tensor

from saelab.kernels.gpu.gather import TILE
from saelab.kernels.segments import PIECE, Segments
from saelab.kernels.terms import Term


@triton.jit
def _sum_of(values, rows, x, begin, end, column, width, UNROLL: tl.constexpr, COLUMNS: tl.constexpr):
    """A block of columns of the sum of some entries."""
    total = tl.zeros((COLUMNS,), tl.float32)
    for first in range(begin, end, UNROLL):
        for step in tl.static_range(UNROLL):
            place = first + step
            row = tl.load(rows + place, mask=place < end, other=0).to(tl.int64)
            value = tl.load(values + place, mask=place < end, other=0.0)
            part = tl.load(x + row * width + column, mask=(column < width) & (place < end), other=0.0)
            total += value * part.to(tl.float32)
    return total


@triton.jit
def _gradient(
    values, rows, x, sums, dense, feature, begin, end, first, last, column, width, DENSE: tl.constexpr, UNROLL: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """A block of columns of a feature's gradient: from its entries, or from its pieces where it has any."""
    if first < last:
        found = tl.zeros((COLUMNS,), tl.float32)
        for piece in range(first, last):
            found += tl.load(sums + piece * width + column, mask=column < width, other=0.0)
    else:
        found = _sum_of(values, rows, x, begin, end, column, width, UNROLL, COLUMNS)
    if DENSE:
        found += tl.load(dense + (feature + tl.zeros((), tl.int64)) * width + column, mask=column < width, other=0.0)
    return found


@triton.jit
def _pieces_kernel(
    values, rows, x, bounds, pieces, owner, sums, low, high, width, PIECE: tl.constexpr, UNROLL: tl.constexpr, COLUMNS: tl.constexpr
):
    """A block of columns of the sum of a piece, where it is of one of some features."""
    piece = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    feature = tl.load(owner + piece)
    if (feature >= low) & (feature < high):
        begin = tl.load(bounds + feature) + (piece - tl.load(pieces + feature)) * PIECE
        end = tl.minimum(begin + PIECE, tl.load(bounds + feature + 1))
        found = _sum_of(values, rows, x, begin, end, column, width, UNROLL, COLUMNS)
        tl.store(sums + piece.to(tl.int64) * width + column, found, mask=column < width)


@triton.jit
def _norms_kernel(
    values, rows, x, bounds, pieces, sums, dense, along, bound, limit, out, d_sae, width, UNIT: tl.constexpr, DENSE: tl.constexpr,
    UNROLL: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The norms of some features' gradients, where the bound on all of them together exceeds the limit."""
    if tl.load(bound) <= limit:
        return
    for feature in range(tl.program_id(0), d_sae, tl.num_programs(0)):
        begin, end = tl.load(bounds + feature), tl.load(bounds + feature + 1)
        first, last = tl.load(pieces + feature), tl.load(pieces + feature + 1)
        total = 0.0
        for low in range(0, width, COLUMNS):
            column = low + tl.arange(0, COLUMNS)
            found = _gradient(values, rows, x, sums, dense, feature, begin, end, first, last, column, width, DENSE, UNROLL, COLUMNS)
            total += tl.sum(found * found)
        if UNIT:
            part = tl.load(along + feature)
            total = tl.maximum(total - part * part, 0.0)
        tl.store(out + feature, tl.sqrt(total))


@triton.jit
def _adam_kernel(
    weight, copy, first_moment, second_moment, values, rows, x, bounds, pieces, sums, dense, along, rate, corrections, norm, clip, width,
    beta1, beta2, eps, UNIT: tl.constexpr, DENSE: tl.constexpr, WHOLE: tl.constexpr, UNROLL: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Steps the row of a feature. `corrections` are 1 - beta^step; WHOLE says that a block holds a row."""
    feature = tl.program_id(0)
    begin, end = tl.load(bounds + feature), tl.load(bounds + feature + 1)
    first, last = tl.load(pieces + feature), tl.load(pieces + feature + 1)
    row = feature.to(tl.int64) * width
    size = tl.load(rate) / tl.load(corrections).to(tl.float32)
    root = tl.sqrt(tl.load(corrections + 1).to(tl.float32))
    factor = tl.minimum(clip / (tl.load(norm) + 1e-6), 1.0)
    part = tl.load(along + feature) if UNIT else 0.0
    total = 0.0
    for low in range(0, width, COLUMNS):
        column = low + tl.arange(0, COLUMNS)
        inside = column < width
        old = tl.load(weight + row + column, mask=inside, other=0.0)
        found = _gradient(values, rows, x, sums, dense, feature, begin, end, first, last, column, width, DENSE, UNROLL, COLUMNS)
        found = factor * (found - part * old)
        mean = beta1 * tl.load(first_moment + row + column, mask=inside, other=0.0) + (1 - beta1) * found
        square = beta2 * tl.load(second_moment + row + column, mask=inside, other=0.0) + (1 - beta2) * found * found
        tl.store(first_moment + row + column, mean, mask=inside)
        tl.store(second_moment + row + column, square, mask=inside)
        new = old - size * mean / (tl.sqrt(square) / root + eps)
        if UNIT:
            total += tl.sum(tl.where(inside, new * new, 0.0))
        if UNIT and WHOLE:
            new *= 1 / tl.sqrt(total)
        tl.store(weight + row + column, new, mask=inside)
        if not UNIT or WHOLE:
            tl.store(copy + row + column, new.to(copy.dtype.element_ty), mask=inside)
    if UNIT and not WHOLE:
        tl.debug_barrier()
        for low in range(0, width, COLUMNS):
            column = low + tl.arange(0, COLUMNS)
            new = tl.load(weight + row + column, mask=column < width, other=0.0) / tl.sqrt(total)
            tl.store(weight + row + column, new, mask=column < width)
            tl.store(copy + row + column, new.to(copy.dtype.element_ty), mask=column < width)


class Gradient:
    """The gradient of a weight from its terms; busy features are summed at once, the others when they are stepped.

    Arguments:
    - `weight`: what it is the gradient of.
    - `terms`: what it is made of; one at least.
    - `unit`: whether rows have norm 1; then the gradient's part along them is taken off.
    - `dense`: a part that is not made of terms, if there is one.
    - `own`: the features that norms are asked of, and that are stepped; none for all.
    """

    def __init__(
        self, weight: Float[Tensor, "d_sae width"], terms: Sequence[Term], unit: bool, dense: Tensor | None, own: slice | None = None
    ) -> None:
        self.values, self.x, self.segments = _joined(terms)
        self.dense = dense
        self.own = own or slice(0, len(weight))
        """The features that norms are asked of, and that are stepped."""
        self.divided = self.own.stop - self.own.start < len(weight)
        """Whether other processes step the others."""
        parts, reaches = [term.sums for term in terms], [term.reach for term in terms]
        if dense is not None:
            parts, reaches = [*parts, (dense * weight).sum(1)], [*reaches, dense.norm(dim=1)]
        self.along = _total(parts) if unit else None
        self.reach = _total(reaches)
        """For each row no less than the norm of its gradient."""
        self.width = weight.shape[1]
        self.shape = _shape(self.width)
        self.sums = torch.empty(len(self.segments.owner), self.width, dtype=torch.float32, device=self.x.device)
        if len(self.sums):
            _pieces_kernel[(len(self.sums), triton.cdiv(self.width, TILE))](
                *self._entries(), self.segments.bounds, self.segments.pieces, self.segments.owner, self.sums, self.own.start, self.own.stop,
                self.width, PIECE, 8, TILE, num_warps=1,
            )  # fmt: skip

    def _entries(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.values, self.segments.rows, self.x

    def _of_features(self) -> tuple[Tensor, ...]:
        """What the kernels read of entries and features, from the first of its own features on."""
        first = self.own.start
        bounds, pieces = self.segments.bounds[first:], self.segments.pieces[first:]
        parts = [self.x if part is None else part[first:] for part in (self.dense, self.along)]  # x stands for what is not read
        return *self._entries(), bounds, pieces, self.sums, *parts

    def norms(self, bound: Float[Tensor, ""], limit: float, out: Float[Tensor, " d_sae"]) -> None:
        """Writes the norm of each of its own rows, where the bound exceeds the limit; else nothing."""
        number = self.own.stop - self.own.start
        _norms_kernel[(min(number, _MOST),)](
            *self._of_features(), bound, limit, out[self.own], number, self.width, self.along is not None, self.dense is not None,
            *self.shape[:2], num_warps=self.shape[2],
        )  # fmt: skip

    def step(
        self,
        weight: Float[Tensor, "d_sae width"],
        copy: BFloat16[Tensor, "d_sae width"],
        moments: tuple[Tensor, Tensor],
        rate: Float[Tensor, ""],
        corrections: Float[Tensor, "2"],
        norm: Float[Tensor, ""],
        clip: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """Adam's step on its own rows of the weight and of its bfloat16 copy, in place; rows of norm 1 are brought back to it.

        All gradients together have that `norm`, and are shortened to `clip`.
        """
        tile, columns, warps = self.shape
        stepped = [tensor[self.own] for tensor in (weight, copy, *moments)]
        _adam_kernel[(len(stepped[0]),)](
            *stepped, *self._of_features(), rate, corrections, norm, clip, self.width, *betas, eps, self.along is not None,
            self.dense is not None, columns >= self.width, tile, columns, num_warps=warps,
        )  # fmt: skip


def _shape(width: int) -> tuple[int, int, int]:
    """Entries read at once, columns of a block, and warps: eight columns a thread, so that no sum leaves it.

    A block that holds a whole row spares a second pass, if not too many of its threads are idle; found by measurement on an H100.
    """
    whole = triton.next_power_of_2(max(width, 64))
    columns = whole if whole <= 1024 or (whole <= 4096 and 4 * width >= 3 * whole) else 1024
    return 4, columns, max(1, columns // 256)


_MOST = 4096
"""Programs that look whether norms are needed."""


def _total(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


def _joined(terms: Sequence[Term]) -> tuple[Float[Tensor, " n"], BFloat16[Tensor, "row width"], Segments]:
    """Values in the order of their features, rows and segments of all terms together."""
    if len(terms) == 1:
        return terms[0].values, terms[0].x, terms[0].segments
    firsts = [sum(len(term.x) for term in terms[:number]) for number in range(1, len(terms))]
    segments = terms[0].segments.joined([term.segments for term in terms[1:]], firsts)
    return torch.cat([term.values for term in terms])[segments.order], torch.cat([term.x for term in terms]), segments
