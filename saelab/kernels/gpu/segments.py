"""Sums over each feature's entries of numbers, one an entry."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from saelab.kernels.segments import Segments


@triton.jit
def _scalars_kernel(values, factors, order, bounds, out, FACTORS: tl.constexpr, SIZE: tl.constexpr):
    """The sum over a feature's entries of their values, or of products of two."""
    feature = tl.program_id(0)
    begin, end = tl.load(bounds + feature), tl.load(bounds + feature + 1)
    total = tl.zeros((SIZE,), tl.float32)
    for first in range(begin, end, SIZE):
        place = first + tl.arange(0, SIZE)
        entry = tl.load(order + place, mask=place < end, other=0)
        value = tl.load(values + entry, mask=place < end, other=0.0)
        if FACTORS:
            value *= tl.load(factors + entry, mask=place < end, other=0.0)
        total += value
    tl.store(out + feature, tl.sum(total))


def scalars(values: Float[Tensor, "*codes"], segments: Segments, factors: Tensor | None = None) -> Float[Tensor, " d_sae"]:
    """For each feature the sum of its entries' values, each times a factor where there are some."""
    d_sae = len(segments.bounds) - 1
    out = torch.empty(d_sae, dtype=torch.float32, device=values.device)
    _scalars_kernel[(d_sae,)](
        values, values if factors is None else factors, segments.order, segments.bounds, out, factors is not None, 32, num_warps=1
    )
    return out
