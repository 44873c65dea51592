"""The parts of a gradient in the order of the features that they belong to, and what is summed over each feature's."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from saelab.kernels.low import row_norms
from saelab.kernels.segments import Segments
from saelab.kernels.terms import Term


@triton.jit
def _terms(values, along, norms, order, rows, ordered, place, inside, size_of, ALONG: tl.constexpr):
    """Writes the values of entries in order; gives what each adds to its feature's sum, and its size times the norm of its row."""
    entry = tl.load(order + place, mask=inside, other=0)
    value = tl.load(values + entry, mask=inside, other=0.0)
    full = value * size_of
    tl.store(ordered + place, full, mask=inside)
    size = tl.abs(full) * tl.load(norms + tl.load(rows + place, mask=inside, other=0), mask=inside, other=0.0)
    return value * tl.load(along + entry, mask=inside, other=0.0) if ALONG else full, size


@triton.jit
def _term_kernel(
    values, along, unit, norms, order, rows, bounds, ordered, sums, reach, d_sae, ALONG: tl.constexpr, UNIT: tl.constexpr,
    FEATURES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Of some features the values of their entries, in order; their sum, or that of values times `along`; and that of sizes times norms.

    Features with few entries are read together; where one has many, one after another.
    """
    size_of = tl.load(unit) if UNIT else 1.0
    first = tl.program_id(0) * FEATURES
    feature = first + tl.arange(0, FEATURES)
    begin = tl.load(bounds + feature, mask=feature < d_sae, other=0)
    end = tl.load(bounds + feature + 1, mask=feature < d_sae, other=0)
    if tl.max(end - begin) <= SIZE:
        place = begin[:, None] + tl.arange(0, SIZE)[None, :]
        total, size = _terms(values, along, norms, order, rows, ordered, place, place < end[:, None], size_of, ALONG)
        tl.store(sums + feature, tl.sum(total, axis=1), mask=feature < d_sae)
        tl.store(reach + feature, tl.sum(size, axis=1), mask=feature < d_sae)
    else:
        for one in range(first, tl.minimum(first + FEATURES, d_sae)):
            low, high = tl.load(bounds + one), tl.load(bounds + one + 1)
            totals, sizes = tl.zeros((FEATURES * SIZE,), tl.float32), tl.zeros((FEATURES * SIZE,), tl.float32)
            for start in range(low, high, FEATURES * SIZE):
                place = start + tl.arange(0, FEATURES * SIZE)
                total, size = _terms(values, along, norms, order, rows, ordered, place, place < high, size_of, ALONG)
                totals += total
                sizes += size
            tl.store(sums + one, tl.sum(totals))
            tl.store(reach + one, tl.sum(sizes))


_FEATURES, _SIZE = 4, 64
"""Features of a program, and entries of each that are few."""


def term_of(
    values: Float[Tensor, "*codes"],
    x: Float[Tensor, "row width"],
    segments: Segments,
    unit: Float[Tensor, ""] | None = None,
    along: Float[Tensor, "*codes"] | None = None,
) -> Term:
    """The gradient of a weight that is the sum of values, in some unit, times rows of x.

    Arguments:
    - `along`: for each entry the dot product of its row and the weight's, in the same unit; none where it does not matter.
    """
    d_sae = len(segments.bounds) - 1
    ordered = torch.empty(values.numel(), dtype=torch.float32, device=values.device)
    sums, reach = torch.empty(2, d_sae, dtype=torch.float32, device=values.device)
    _term_kernel[(triton.cdiv(d_sae, _FEATURES),)](
        values, values if along is None else along, values if unit is None else unit, row_norms(x), segments.order, segments.rows,
        segments.bounds, ordered, sums, reach, d_sae, along is not None, unit is not None, _FEATURES, _SIZE, num_warps=1,
    )  # fmt: skip
    return Term(ordered, x, segments, sums, reach)
