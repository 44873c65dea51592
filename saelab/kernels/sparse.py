"""Three sparse products and the choice of the active features: all that a sparse dictionary's step needs beside one dense product.

With `indices[t, j]` the j-th active feature of row t:

    gather_dot     out[t, j] = x[t] · weight[indices[t, j]]                 encode, and the gradient of activations
    gather_sum     out[t]    = Σ_j values[t, j] · weight[indices[t, j]]     decode, and the gradient of x
    segment_sum    out[f]    = Σ_{t, j: indices[t, j] = f} values[t, j] · x[t]   the gradient of both weights

The first two are differentiable and are each other's gradients, so a step never forms a dense array of activations or of their gradients,
nor the dense products that would follow from it. Only `topk_indices` multiplies by all features, and it needs no gradient.
"""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

_SPARE = 4
"""One candidate in so many more than asked for is looked at when candidates are ranked in bfloat16."""

with warnings.catch_warnings():  # PyTorch says once a process that its CSR support is young; said here, it reaches nobody
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


def topk_indices(
    x: Float[Tensor, "row d_in"], weight: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], k: int
) -> Int[Tensor, "row k"]:
    """Indices of the k largest of `x @ weight.T + bias` in each row, in no order.

    Under bfloat16 autocast a quarter more candidates are ranked by the cheap product and the best k of them by exact dot products: that
    keeps the exact set but for a few in a million, where a bfloat16 ranking alone changes one in a hundred.
    """
    with torch.no_grad():
        rough = functional.linear(x, weight, bias)
        if rough.dtype == weight.dtype:
            return rough.topk(k, sorted=False).indices
        candidates = rough.topk(min(k + max(1, k // _SPARE), weight.shape[0]), sorted=False).indices
        exact = gather_dot(x, weight, candidates) + bias[candidates]
        return candidates.gather(1, exact.topk(k, sorted=False).indices)


def gather_dot(x: Float[Tensor, "row d_in"], weight: Float[Tensor, "d_sae d_in"], indices: Int[Tensor, "row k"]) -> Float[Tensor, "row k"]:
    """Dot products of each row of x with the weight rows that its indices name. Differentiable in `x` and `weight`."""
    return _GatherDot.apply(x, weight, indices)  # pyright: ignore[reportReturnType]


def gather_sum(
    values: Float[Tensor, "row k"], indices: Int[Tensor, "row k"], weight: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "row d_in"]:
    """Sums of weight rows, each times its value. Differentiable in `values` and `weight`."""
    return _GatherSum.apply(values, indices, weight)  # pyright: ignore[reportReturnType]


def segment_sum(
    values: Float[Tensor, "row k"], indices: Int[Tensor, "row k"], x: Float[Tensor, "row d_in"], d_sae: int
) -> Float[Tensor, "d_sae d_in"]:
    """For each feature the sum of the rows at which it is active, each times its value. The order of summation is fixed."""
    features, order = indices.reshape(-1).sort(stable=True)
    starts = torch.searchsorted(features, torch.arange(d_sae + 1, device=x.device))
    rows = torch.arange(x.shape[0], device=x.device).repeat_interleave(indices.shape[1])[order]
    weights = values.reshape(-1)[order]
    return functional.embedding_bag(rows, x, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _dots(x: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    """The values of `gather_dot`, by a dense product sampled at the indices."""
    rows, k = indices.shape
    starts = torch.arange(0, rows * k + 1, k, device=x.device)
    empty = x.new_zeros(rows * k)
    where = torch.sparse_csr_tensor(starts, indices.reshape(-1), empty, (rows, weight.shape[0]), check_invariants=False)
    return torch.sparse.sampled_addmm(where, x, weight.T, beta=0.0).values().view(rows, k)


def _sums(values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """The values of `gather_sum`."""
    return functional.embedding_bag(indices, weight, mode="sum", per_sample_weights=values)


class _GatherDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, indices)
        return _dots(x, weight, indices)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, indices = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        need_x, need_weight, _ = ctx.needs_input_grad  # pyright: ignore[reportAttributeAccessIssue]
        return (
            _sums(grad, indices, weight) if need_x else None,
            segment_sum(grad, indices, x, weight.shape[0]) if need_weight else None,
            None,
        )


class _GatherSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, weight)
        return _sums(values, indices, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, indices, weight = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        need_values, _, need_weight = ctx.needs_input_grad  # pyright: ignore[reportAttributeAccessIssue]
        grad = grad.contiguous()
        return (
            _dots(grad, weight, indices) if need_values else None,
            None,
            segment_sum(values, indices, grad, weight.shape[0]) if need_weight else None,
        )
