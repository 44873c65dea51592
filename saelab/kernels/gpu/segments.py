"""Sums over each feature's entries of numbers, one an entry."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from saelab.kernels.low import row_norms
from saelab.kernels.segments import Segments


@triton.jit
def _scalars_kernel(
    values, factors, norms, order, rows, bounds, sums, reach, d_sae, FACTORS: tl.constexpr, FEATURES: tl.constexpr, SIZE: tl.constexpr
):
    """Sums over the entries of some features: of their values, each times a factor, and of their sizes times the norm of their row."""
    feature = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    begin = tl.load(bounds + feature, mask=feature < d_sae, other=0)
    end = tl.load(bounds + feature + 1, mask=feature < d_sae, other=0)
    total, size = tl.zeros((FEATURES, SIZE), tl.float32), tl.zeros((FEATURES, SIZE), tl.float32)
    for first in range(0, tl.max(end - begin), SIZE):
        place = begin[:, None] + first + tl.arange(0, SIZE)[None, :]
        inside = place < end[:, None]
        entry = tl.load(order + place, mask=inside, other=0)
        value = tl.load(values + entry, mask=inside, other=0.0)
        size += tl.abs(value) * tl.load(norms + tl.load(rows + place, mask=inside, other=0))
        if FACTORS:
            value *= tl.load(factors + entry, mask=inside, other=0.0)
        total += value
    tl.store(sums + feature, tl.sum(total, axis=1), mask=feature < d_sae)
    tl.store(reach + feature, tl.sum(size, axis=1), mask=feature < d_sae)


_FEATURES = 8
"""Features of a program: most have few entries."""


def scalars(
    values: Float[Tensor, "*codes"], x: Float[Tensor, "row width"], segments: Segments, factors: Tensor | None = None
) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
    """For each feature the sum of its entries' values, times factors if there are any, and the most that the norm of Σ value · x can be."""
    d_sae = len(segments.bounds) - 1
    sums, reach = torch.empty(2, d_sae, dtype=torch.float32, device=values.device)
    _scalars_kernel[(triton.cdiv(d_sae, _FEATURES),)](
        values, values if factors is None else factors, row_norms(x), segments.order, segments.rows, segments.bounds, sums, reach,
        d_sae, factors is not None, _FEATURES, 16, num_warps=1,
    )  # fmt: skip
    return sums, reach
