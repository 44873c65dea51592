"""What nested dictionaries leave of what is wanted: each is a prefix of the next, so that one pass over the codes serves all of them.

With p groups of features, one after another, s_g the sum of a row's entries in group g, and N numbers in a batch:

    r_g = wanted - s_0 - ... - s_g        loss = the mean over groups of |r_g|² / N

Within a row features rise, so the entries of a group stand together, and codes are cut into rows and groups as they are cut into rows. What
s_g changes is r_g and all that follow, so an entry's value and weight row have gradients from the *rest* of its row and group alone:

    R_g = r_g + r_{g+1} + ...        ∂loss/∂value = -2/(pN) weight · R_g        ∂loss/∂weight = Σ over entries of -2/(pN) value · R_g
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from saelab.kernels.low import column_sums, low
from saelab.kernels.segments import rows_of, segments_of
from saelab.kernels.sparse import fast, gather_sum, mean_square, segment_sum
from saelab.kernels.streams import aside, rejoin
from saelab.kernels.terms import collected


def nested(
    values: Float[Tensor, " n"],
    indices: Int[Tensor, " n"],
    weight: Float[Tensor, "d_sae d_in"],
    starts: Int[Tensor, " row_starts"],
    firsts: tuple[int, ...],
    wanted: Float[Tensor, "row d_in"],
    shift: Float[Tensor, " d_in"] | None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "row d_in"], Float[Tensor, ""]]:
    """The mean square of what the nested sums of weight rows leave of wanted - shift; what the last one leaves, and the sum of its squares.

    The mean is differentiable in `values`, `weight`, `wanted` and `shift`; the others have no gradient.

    Arguments:
    - `indices`: flat; they rise within a row.
    - `firsts`: the first feature of each group; that of the first group is 0, or less where these are not the first features of all.
    - `total`: adds up what other processes' features write, where there are any.
    """
    if total is None and fast(weight):
        return _Nested.apply(values, indices, weight, starts, firsts, wanted, shift)  # pyright: ignore[reportReturnType]
    sums = gather_sum(values, indices, weight, cuts(indices, starts, firsts)).view(len(wanted), len(firsts), -1)
    left = wanted if shift is None else wanted - shift
    means: list[Tensor] = []
    for part in (sums if total is None else total(sums)).unbind(1):
        left = left - part
        means.append(mean_square(left))
    return torch.stack(means).mean(), left.detach(), means[-1].detach() * left.numel()


def cuts(indices: Int[Tensor, " n"], starts: Int[Tensor, " row_starts"], firsts: tuple[int, ...]) -> Int[Tensor, " group_starts"]:
    """Where each group of each row begins, row after row, and where the last one ends."""
    groups = len(firsts)
    place = rows_of(starts, len(indices)) * groups + torch.bucketize(indices, _on(firsts, indices.device), right=True) - 1
    return torch.searchsorted(place, torch.arange((len(starts) - 1) * groups + 1, device=indices.device))


@cache
def _on(numbers: tuple[int, ...], device: torch.device) -> Int[Tensor, " n"]:
    """Numbers on a device; sent there once, since a recorded step may not."""
    return torch.tensor(numbers, device=device)


class _Nested(torch.autograd.Function):
    """On a GPU: all of it in one kernel that writes the rests in bfloat16, and a backward pass that reads nothing else."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, indices: Tensor, weight: Tensor, starts: Tensor, firsts: tuple[int, ...], wanted: Tensor,  # noqa: ANN401
        shift: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        from saelab.kernels.gpu.nested import group_starts, rests

        bounds = group_starts(indices, starts, _on(firsts, indices.device))
        rest, residual, squares, error = rests(values, indices, low(weight), bounds, len(firsts), wanted, shift)
        with aside(weight.device, "order"):
            segments = segments_of(indices, starts, len(weight)).moved(rows_of(bounds, len(indices)))
            whole = rest.view(len(wanted), len(firsts), -1)[:, 0]
            columns = None if shift is None else column_sums(whole)
        ctx.of = values, indices, weight, bounds, segments, rest, whole, columns
        ctx.mark_non_differentiable(residual, error)
        ctx.set_materialize_grads(False)
        return squares / rest.numel(), residual, error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:  # noqa: ANN401 # pyright: ignore[reportIncompatibleMethodOverride]
        from saelab.kernels.gpu.gather import dots
        from saelab.kernels.gpu.segments import term_of

        values, indices, weight, bounds, segments, rest, whole, columns = ctx.of
        factor, terms = grad * (-2 / rest.numel()), collected(weight)
        by_values = dots(rest, low(weight), None, indices, bounds, factor)
        rejoin(weight.device, "order")
        if terms is not None:
            terms.append(term_of(values, rest, segments, factor, by_values))
        by_weight = segment_sum(values * factor, rest.float(), segments) if terms is None and ctx.needs_input_grad[2] else None
        by_wanted = -factor * whole if ctx.needs_input_grad[5] else None
        by_shift = factor * columns if ctx.needs_input_grad[6] else None
        return by_values, None, by_weight, None, None, by_wanted, by_shift
