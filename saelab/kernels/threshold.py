"""What a JumpReLU SAE learns from, out of all pre-activations of a batch: those over thresholds, and those near them, as lists.

    over    pre > threshold
    near    |pre - threshold| < reach        on either side, so that an entry may be on both lists

Lists are flat and in row order (`saelab.kernels.sparse`). A step that is recorded needs lists of fixed lengths: with `room` for so many
entries each is as long, unused entries are 0, and where there are more than fit, the last ones, which are those of the batch's last rows,
are left out. Without it they are as long as need be. Where those near their thresholds are too many to be listed, they are marked, and
what is asked of them comes from a dense product.

This is plain PyTorch, and the reference of `saelab.kernels.gpu.threshold`.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from saelab.kernels.low import low
from saelab.kernels.segments import Segments, keep_segments, segments_of
from saelab.kernels.sparse import fast, gather_dot
from saelab.kernels.streams import aside, rejoin


class Listed(NamedTuple):
    """Some entries of the pre-activations of a batch."""

    values: Float[Tensor, " n"]
    """The pre-activations."""
    indices: Int[Tensor, " n"]
    """Their features."""
    rows: Int[Tensor, " n"]
    """Their rows."""
    starts: Int[Tensor, " row_starts"]
    """Where each row begins, and where the last one ends."""
    total: Int[Tensor, ""]
    """How many entries there are, also where not all of them fit."""

    @property
    def left_out(self) -> Int[Tensor, ""]:
        """How many of them did not fit."""
        return self.total - self.starts[-1]

    def prepare(self, d_sae: int) -> None:
        """Has a GPU put the entries in the order of their features, beside what it is asked to do next."""
        device = self.values.device
        with aside(device, "order"):
            unused = torch.arange(len(self.values), device=device) >= self.starts[-1]
            segments = Segments(self.indices.masked_fill(unused, d_sae), self.rows, d_sae)  # unused ones are of no feature
            keep_segments(self.indices, self.starts, d_sae, segments)
            _ = segments.owner

    def counts(self, d_sae: int) -> Int[Tensor, " d_sae"]:
        """How many of the entries each feature has."""
        rejoin(self.values.device, "order")
        return segments_of(self.indices, self.starts, d_sae).bounds.diff()

    def sums(self, values: Float[Tensor, " n"], x: Float[Tensor, "row d_in"], d_sae: int) -> Float[Tensor, " d_sae"]:
        """For each feature the sum of numbers, one an entry, in a fixed order; x are rows of known norms."""
        if not values.is_cuda:
            used = int(self.starts[-1])
            return values.new_zeros(d_sae).index_add_(0, self.indices[:used], values[:used])
        from saelab.kernels.gpu.segments import term_of

        rejoin(values.device, "order")
        return term_of(values, x, segments_of(self.indices, self.starts, d_sae)).sums

    def pull(
        self, residual: Float[Tensor, "row d_in"], decoder: Float[Tensor, "d_sae d_in"], x: Float[Tensor, "row d_in"]
    ) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
        """For each feature, over the rows where it has an entry, the sum of residual · its decoder row; and how many they are.

        x are rows of known norms.
        """
        along = self.sums(gather_dot(residual, decoder, self.indices, self.starts), x, len(decoder))
        return along, self.counts(len(decoder)).to(along.dtype)


class Marked(NamedTuple):
    """Entries that are too many to be listed."""

    bits: Int[Tensor, "row word"]
    """A bit for each pre-activation of a row: whether it is an entry. Feature 32 w + b has bit b of word w."""
    total: Int[Tensor, ""]
    """How many entries there are."""

    @property
    def left_out(self) -> Int[Tensor, ""]:
        """None of them."""
        return torch.zeros_like(self.total)

    def pull(
        self, residual: Float[Tensor, "row d_in"], decoder: Float[Tensor, "d_sae d_in"], x: Float[Tensor, "row d_in"]
    ) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
        """As that of `Listed`, from a dense product."""
        if fast(decoder):
            from saelab.kernels.gpu.threshold import pulled

            return pulled(self.bits, low(residual), low(decoder))
        mask = (self.bits[:, :, None] >> torch.arange(32, device=x.device) & 1).flatten(1)[:, : len(decoder)]
        return (mask * (residual @ decoder.T)).sum(0), mask.sum(0).to(residual.dtype)


Room = tuple[int, int | None]
"""Entries that the lists of those over thresholds and of those near them have; none for the latter where they are to be marked."""


def listed(
    pre: Float[Tensor, "row d_sae"],
    threshold: Float[Tensor, " d_sae"],
    reach: Float[Tensor, " d_sae"],
    room: Room | None = None,
) -> tuple[Listed, Listed | Marked]:
    """The entries over their thresholds, and those near them. Values are in the thresholds' precision; lists have the lengths of `room`."""
    place = (threshold - pre < reach).flatten().nonzero()[:, 0]
    values, indices, rows = pre.flatten()[place].to(threshold.dtype), place % pre.shape[1], place // pre.shape[1]
    above = values - threshold[indices]
    over, near = (Listed(values[mask], indices[mask], *_rows(rows[mask], len(pre))) for mask in (above > 0, above.abs() < reach[indices]))
    if room is None:
        return over, near
    return _fitted(over, room[0]), _marked((pre - threshold).abs() < reach) if room[1] is None else _fitted(near, room[1])


def _marked(mask: Bool[Tensor, "row d_sae"]) -> Marked:
    bits = functional.pad(mask, (0, -mask.shape[1] % 32)).unflatten(1, (-1, 32)).long() << torch.arange(32, device=mask.device)
    return Marked(bits.sum(2).to(torch.int32), mask.sum())


def _rows(rows: Int[Tensor, " n"], num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    starts = torch.searchsorted(rows, torch.arange(num_rows + 1, device=rows.device))
    return rows, starts, starts[-1]


def _fitted(part: Listed, size: int) -> Listed:
    values, indices, rows = (functional.pad(item[:size], (0, max(0, size - len(item)))) for item in part[:3])
    return Listed(values, indices, rows, part.starts.clamp(max=size), part.total)


def product_listed(
    x: Float[Tensor, "row d_in"],
    weight: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    threshold: Float[Tensor, " d_sae"],
    reach: Float[Tensor, " d_sae"],
    room: Room | None = None,
) -> tuple[Listed, Listed | Marked]:
    """What `listed` finds in `x @ weight.T + bias`; on a GPU, where room is needed, in bfloat16."""
    if room is not None and fast(weight):
        from saelab.kernels.gpu.threshold import listed as found

        return found(functional.linear(low(x), low(weight), low(bias)), threshold, reach, room)
    return listed(functional.linear(x, weight, bias), threshold, reach, room)


def with_slope(number: Float[Tensor, ""], at: Float[Tensor, " n"], slope: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The number as it is, with a given gradient in something that it is no function of."""
    return _WithSlope.apply(number, at, slope)  # pyright: ignore[reportReturnType]


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, number: Tensor, at: Tensor, slope: Tensor) -> Tensor:  # noqa: ANN401
        del at
        ctx.slope = slope
        return number.view_as(number)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401 # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, grad * ctx.slope, None
