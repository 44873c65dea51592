"""Sums over each feature's entries of numbers, one an entry."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from saelab.kernels.low import row_norms
from saelab.kernels.segments import Segments


@triton.jit
def _scalars_kernel(values, factors, norms, order, rows, bounds, sums, reach, FACTORS: tl.constexpr, SIZE: tl.constexpr):
    """Sums over a feature's entries: of their values, each times a factor, and of their sizes times the norm of their row."""
    feature = tl.program_id(0)
    begin, end = tl.load(bounds + feature), tl.load(bounds + feature + 1)
    total, size = tl.zeros((SIZE,), tl.float32), tl.zeros((SIZE,), tl.float32)
    for first in range(begin, end, SIZE):
        place = first + tl.arange(0, SIZE)
        entry = tl.load(order + place, mask=place < end, other=0)
        value = tl.load(values + entry, mask=place < end, other=0.0)
        size += tl.abs(value) * tl.load(norms + tl.load(rows + place, mask=place < end, other=0))
        if FACTORS:
            value *= tl.load(factors + entry, mask=place < end, other=0.0)
        total += value
    tl.store(sums + feature, tl.sum(total))
    tl.store(reach + feature, tl.sum(size))


def scalars(
    values: Float[Tensor, "*codes"], x: Float[Tensor, "row width"], segments: Segments, factors: Tensor | None = None
) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
    """For each feature the sum of its entries' values, times factors if there are any, and the most that the norm of Σ value · x can be."""
    d_sae = len(segments.bounds) - 1
    sums, reach = torch.empty(2, d_sae, dtype=torch.float32, device=values.device)
    _scalars_kernel[(d_sae,)](
        values, values if factors is None else factors, row_norms(x), segments.order, segments.rows, segments.bounds, sums, reach,
        factors is not None, 32, num_warps=1,
    )  # fmt: skip
    return sums, reach
