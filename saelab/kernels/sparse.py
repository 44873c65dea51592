"""The sparse products of a dictionary's step: all that it needs beside the choice of the active features (`saelab.kernels.selection`).

With `indices[t, j]` the j-th active feature of row t:

    gather_dot     out[t, j] = x[t] · weight[indices[t, j]] + bias[...]     encode, and the gradient of activations
    gather_sum     out[t]    = Σ_j values[t, j] · weight[indices[t, j]]     decode, and the gradient of x
    segment_sum    out[f]    = Σ_{t, j: indices[t, j] = f} values[t, j] · x[t]   the gradient of both weights

The first two are differentiable and are each other's gradients, so a step never forms a dense array of activations or of their gradients,
nor the dense products that would follow from it.

Rows may have different numbers of active features. Then indices and values are flat, row after row, and `starts[t]` is where row t begins;
`starts` has one entry more than there are rows. Without `starts` all rows have as many: indices are [row k].

This is plain PyTorch, and the reference. Under bfloat16 autocast on a GPU `saelab.kernels.gpu` does the same with bfloat16 operands and
float32 sums, and where an optimiser asks for it (`saelab.kernels.adam`) the gradient of a weight is left as terms and never summed up.
"""

import warnings
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from saelab.kernels.low import column_sums, keep_row_norms, low
from saelab.kernels.segments import PIECE, Segments, segments_of
from saelab.kernels.streams import aside, rejoin
from saelab.kernels.terms import Term, collected, prepare, tell_rows

HAS_TRITON = find_spec("triton") is not None
"""Whether Triton is installed: with PyTorch for NVIDIA GPUs on Linux it is."""
Starts = Int[Tensor, " row_starts"] | None
"""Where each row begins in flat codes, and where the last one ends; none where all rows have as many."""

with warnings.catch_warnings():  # PyTorch says once a process that its CSR support is young; said here, it reaches nobody
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


def fast(weight: Tensor) -> bool:
    """Whether the Triton kernels do the work: for float32 weights on a GPU, under bfloat16 autocast."""
    return HAS_TRITON and weight.is_cuda and weight.dtype == torch.float32 and torch.is_autocast_enabled("cuda")


def gather_dot(
    x: Float[Tensor, "row d_in"],
    weight: Float[Tensor, "d_sae d_in"],
    indices: Int[Tensor, "*codes"],
    starts: Starts = None,
    bias: Float[Tensor, " d_sae"] | None = None,
    known: Float[Tensor, "*codes"] | None = None,
) -> Float[Tensor, "*codes"]:
    """Dot products of each row of x with the weight rows that its indices name, plus their bias where there is one.

    Differentiable in `x`, `weight` and `bias`. They are not computed where they are `known`.
    """
    if not torch.is_grad_enabled():  # nothing is prepared for a backward pass
        return _dots(x, weight, indices, starts, bias, fast(weight)) if known is None else known
    return _GatherDot.apply(x, weight, bias, indices, starts, known)  # pyright: ignore[reportReturnType]


def gather_sum(
    values: Float[Tensor, "*codes"],
    indices: Int[Tensor, "*codes"],
    weight: Float[Tensor, "d_sae d_in"],
    starts: Starts = None,
) -> Float[Tensor, "row d_in"]:
    """Sums of weight rows, each times its value. Differentiable in `values` and `weight`."""
    return _GatherSum.apply(values, indices, weight, starts)  # pyright: ignore[reportReturnType]


def gather_rows(weight: Float[Tensor, "d_sae d_in"], indices: Int[Tensor, "n 1"]) -> Float[Tensor, "n d_in"]:
    """The weight rows that indices name, each once, differentiable; for indices behind the last any row, without gradient."""
    if fast(weight) and collected(weight) is not None:
        return _GatherRows.apply(weight, indices)  # pyright: ignore[reportReturnType]
    return weight.index_select(0, indices[:, 0].clamp(max=len(weight) - 1))


def moved_bias(
    bias: Float[Tensor, " d_sae"], offset: Float[Tensor, " d_in"], weight: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, " d_sae"]:
    """The bias as it is, with the gradient that it has where pre-activations are those of x - offset, which is differentiable in it.

    The gradient of an offset that all rows share needs no gradient of any row: it is a product of the bias's gradient and the weights.
    """
    return _MovedBias.apply(bias, offset, weight)  # pyright: ignore[reportReturnType]


def unexplained(
    values: Float[Tensor, "*codes"],
    indices: Int[Tensor, "*codes"],
    weight: Float[Tensor, "d_sae d_in"],
    starts: Starts,
    wanted: Float[Tensor, "row d_in"],
    shift: Float[Tensor, " d_in"] | None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "row d_in"]]:
    """What `gather_sum` leaves of wanted - shift: its mean square, differentiable in all but `indices`, and itself, without gradient."""
    if fast(weight):
        return _Unexplained.apply(values, indices, weight, starts, wanted, shift)  # pyright: ignore[reportReturnType]
    residual = (wanted if shift is None else wanted - shift) - gather_sum(values, indices, weight, starts)
    return mean_square(residual), residual.detach()


def mean_square(x: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean square of all elements, in one pass over them, and one for the gradient."""
    return _MeanSquare.apply(x)  # pyright: ignore[reportReturnType]


def segment_sum(values: Float[Tensor, "*codes"], x: Float[Tensor, "row d_in"], segments: Segments) -> Float[Tensor, "d_sae d_in"]:
    """For each feature the sum of the rows at which it is active, each times its value. The order of summation is fixed."""
    rows, weights, bounds, x = segments.rows, values.reshape(-1)[segments.order], segments.bounds, x.to(values.dtype)
    if x.device.type == "cpu":
        return functional.embedding_bag(rows, x, bounds, mode="sum", per_sample_weights=weights, include_last_offset=True)
    pieces, ends = _pieces(bounds, len(rows))
    parts = functional.embedding_bag(rows, x, pieces, mode="sum", per_sample_weights=weights, include_last_offset=True)
    return functional.embedding_bag(torch.arange(len(parts), device=x.device), parts, ends, mode="sum", include_last_offset=True)


def _pieces(bounds: Int[Tensor, " feature_starts"], entries: int) -> tuple[Int[Tensor, " piece_starts"], Int[Tensor, " feature_starts"]]:
    """Where pieces of at most `PIECE` entries begin, and at which piece each feature begins; pieces that are not needed are empty."""
    ends = functional.pad(((bounds.diff() + PIECE - 1) // PIECE).cumsum(0), (1, 0))
    number = torch.arange(len(bounds) + entries // PIECE, device=bounds.device)
    feature = torch.searchsorted(ends, number, right=True) - 1
    inside = feature < len(bounds) - 1
    feature = feature.clamp(max=len(bounds) - 2)
    return torch.where(inside, bounds[feature] + PIECE * (number - ends[feature]), entries), ends


def _dots(
    x: Tensor, weight: Tensor, indices: Tensor, starts: Tensor | None, bias: Tensor | None, quick: bool, unit: Tensor | None = None
) -> Tensor:
    """The values of `gather_dot`, on a GPU in a unit; in plain PyTorch by a dense product sampled at the indices."""
    if quick:
        from saelab.kernels.gpu.gather import dots

        return dots(low(x), low(weight), bias, indices, starts, unit)
    flat = indices.reshape(-1)
    if starts is None:
        starts = torch.arange(0, indices.numel() + 1, indices.shape[1], device=x.device)
    where = torch.sparse_csr_tensor(starts, flat, x.new_zeros(len(flat)), (len(x), len(weight)), check_invariants=False)
    found = torch.sparse.sampled_addmm(where, x, weight.T, beta=0.0).values().view(indices.shape)
    return found if bias is None else found + bias[indices]


def _sums(values: Tensor, indices: Tensor, weight: Tensor, starts: Tensor | None, quick: bool) -> Tensor:
    """The values of `gather_sum`."""
    if quick:
        from saelab.kernels.gpu.gather import sums

        return sums(values, indices, low(weight), starts)
    if starts is None:
        return functional.embedding_bag(indices, weight, mode="sum", per_sample_weights=values)
    return functional.embedding_bag(indices, weight, starts, mode="sum", per_sample_weights=values, include_last_offset=True)


def _term(values: Tensor, x: Tensor, segments: Segments, unit: Tensor | None = None, along: Tensor | None = None) -> Term:
    from saelab.kernels.gpu.segments import term_of

    return term_of(values, x, segments, unit, along)


class _GatherDot(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - PyTorch's own, with fields of ours
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        indices: Tensor,
        starts: Tensor | None,
        known: Tensor | None,
    ) -> Tensor:
        ctx.of, ctx.fast = (x, weight, indices, starts), fast(weight)
        if ctx.fast and collected(weight) is not None:
            prepare(weight, low(x), indices, starts)
        return _dots(x, weight, indices, starts, bias, ctx.fast) if known is None else known

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, indices, starts = ctx.of
        need_x, need_weight, need_bias, *_ = ctx.needs_input_grad
        if ctx.fast:
            rejoin(weight.device, "order")
        grad, segments = grad.contiguous(), segments_of(indices, starts, len(weight))
        by_x = _sums(grad, indices, weight, starts, ctx.fast) if need_x else None
        terms = collected(weight) if ctx.fast and need_weight else None
        if terms is not None:
            term = _term(grad, low(x), segments)
            terms.append(term)
            return by_x, None, term.sums, None, None, None
        by_bias = grad.new_zeros(len(weight)).index_add_(0, indices.reshape(-1), grad.reshape(-1)) if need_bias else None
        return by_x, segment_sum(grad, x, segments) if need_weight else None, by_bias, None, None, None


class _GatherSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, weight: Tensor, starts: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.of, ctx.fast = (values, indices, weight, starts), fast(weight)
        return _sums(values, indices, weight, starts, ctx.fast)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:  # noqa: ANN401 # pyright: ignore[reportIncompatibleMethodOverride]
        values, indices, weight, starts = ctx.of
        need_values, _, need_weight, _ = ctx.needs_input_grad
        if ctx.fast:
            rejoin(weight.device, "order")
        grad, segments = grad.contiguous(), segments_of(indices, starts, len(weight))
        terms = collected(weight) if ctx.fast and need_weight else None
        by_values = _dots(grad, weight, indices, starts, None, ctx.fast) if need_values or terms is not None else None
        if terms is not None:
            terms.append(_term(values, low(grad), segments, along=by_values))
            return by_values, None, None, None
        return by_values, None, segment_sum(values, grad, segments) if need_weight else None, None


class _GatherRows(torch.autograd.Function):
    """A gradient that is a term: each feature has one entry, of value 1, whose row is its gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, indices: Tensor) -> Tensor:  # noqa: ANN401
        ctx.of = weight, indices
        return low(weight)[indices[:, 0].clamp(max=len(weight) - 1)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:  # noqa: ANN401 # pyright: ignore[reportIncompatibleMethodOverride]
        weight, indices = ctx.of
        terms = collected(weight)
        assert terms is not None, "the weight collects them"
        along = (grad * low(weight)[indices[:, 0].clamp(max=len(weight) - 1)]).sum(1, dtype=torch.float32)
        terms.append(_term(torch.ones_like(along), grad, segments_of(indices, None, len(weight)), along=along))
        return None, None


class _Unexplained(torch.autograd.Function):
    """On a GPU: the sum, what it leaves and its mean square in one kernel, and a backward pass that scales instead of making gradients."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, indices: Tensor, weight: Tensor, starts: Tensor | None, wanted: Tensor, shift: Tensor | None  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        from saelab.kernels.gpu.gather import residuals

        residual, squares = residuals(values, indices, low(weight), starts, wanted, shift)
        ctx.of = values, indices, weight, starts, residual, low(residual)
        ctx.squares = squares  # which must not be given away before they are read aside
        if collected(weight) is not None:
            tell_rows(weight, low(residual))
        with aside(weight.device, "order"):
            keep_row_norms(low(residual), squares.sum(1).sqrt())
            ctx.columns = None if shift is None else column_sums(low(residual))
        ctx.mark_non_differentiable(residual)
        ctx.set_materialize_grads(False)
        return squares.sum() / residual.numel(), residual

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:  # noqa: ANN401 # pyright: ignore[reportIncompatibleMethodOverride]
        values, indices, weight, starts, residual, copy = ctx.of
        factor = grad * (-2 / residual.numel())
        by_values = _dots(copy, weight, indices, starts, None, True, factor)
        rejoin(weight.device, "order")
        segments, terms = segments_of(indices, starts, len(weight)), collected(weight)
        if terms is not None:
            terms.append(_term(values, copy, segments, factor, by_values))
        by_weight = segment_sum(values * factor, residual, segments) if terms is None and ctx.needs_input_grad[2] else None
        by_wanted = -factor * residual if ctx.needs_input_grad[4] else None
        by_shift = factor * ctx.columns if ctx.needs_input_grad[5] else None
        return by_values, None, by_weight, None, by_wanted, by_shift


class _MovedBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor, offset: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401
        del offset
        ctx.weight = low(weight) if fast(weight) else weight.detach()
        return bias.view_as(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401 # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, -(grad.to(ctx.weight.dtype) @ ctx.weight).to(grad.dtype), None


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        ctx.x = x
        return torch.linalg.vector_norm(x).square() / x.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401 # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.x * (grad * (2 / ctx.x.numel()))
