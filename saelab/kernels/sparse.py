"""The sparse products of a dictionary's step, and the choice of the active features: all that it needs beside one dense product.

With `indices[t, j]` the j-th active feature of row t:

    gather_dot     out[t, j] = x[t] · weight[indices[t, j]]                 encode, and the gradient of activations
    gather_sum     out[t]    = Σ_j values[t, j] · weight[indices[t, j]]     decode, and the gradient of x
    segment_sum    out[f]    = Σ_{t, j: indices[t, j] = f} values[t, j] · x[t]   the gradient of both weights

The first two are differentiable and are each other's gradients, so a step never forms a dense array of activations or of their gradients,
nor the dense products that would follow from it. Only the choice of features multiplies by all of them, and it needs no gradient.

Rows may have different numbers of active features. Then indices and values are flat, row after row, and `starts[t]` is where row t begins;
`starts` has one entry more than there are rows. Without `starts` all rows have as many: indices are [row k].
"""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

_SPARE = 4
"""One candidate in so many more than asked for is looked at when candidates are ranked in bfloat16."""
_GUESS = 16
"""The choice over a whole batch first guesses its threshold from one row in so many."""
_MARGIN = 2
"""And then looks at the entries over the guess, where there are at most so many times as many as are asked for."""
_PIECE = 64
"""Entries of a feature that a GPU adds up in one go."""
_PART = 2**22
"""Pre-activations that a CPU makes and ranks in one go. They stay in its cache, and the allocator gives the same memory again and again,
where that of a whole batch comes from the system, page by page, at every step."""
Starts = Int[Tensor, " row_starts"] | None
"""Where each row begins in flat codes, and where the last one ends; none where all rows have as many."""

with warnings.catch_warnings():  # PyTorch says once a process that its CSR support is young; said here, it reaches nobody
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


def topk_indices(
    x: Float[Tensor, "row d_in"], weight: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], k: int, signed: bool = False
) -> Int[Tensor, "row k"]:
    """Indices of the k largest of `x @ weight.T + bias` in each row, in no order.

    Under bfloat16 autocast a quarter more candidates are ranked by the cheap product and the best k of them by exact dot products: that
    keeps the exact set but for a few in a million, where a bfloat16 ranking alone changes one in a hundred.

    Arguments:
    - `signed`: the k largest by magnitude.
    """
    with torch.no_grad():
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else weight.dtype
        if dtype == weight.dtype:
            return _ranked(x, weight, bias, k, signed)
        candidates = _ranked(x.to(dtype), weight.to(dtype), bias.to(dtype), min(k + max(1, k // _SPARE), weight.shape[0]), signed)
        exact = gather_dot(x, weight, candidates) + bias[candidates]
        return candidates.gather(1, (exact.abs() if signed else exact).topk(k, sorted=False).indices)


def _ranked(x: Tensor, weight: Tensor, bias: Tensor, k: int, signed: bool) -> Int[Tensor, "row k"]:
    """The k largest of each row by one dense product."""
    rows = max(256, _PART // len(weight) // 64 * 64) if x.device.type == "cpu" else max(1, len(x))  # products like round numbers
    parts = (functional.linear(part, weight, bias) for part in x.split(rows))
    return torch.cat([(part.abs_() if signed else part).topk(k, sorted=False).indices for part in parts])


def batch_topk_indices(
    x: Float[Tensor, "row d_in"], weight: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], count: int
) -> tuple[Int[Tensor, " {count}"], Int[Tensor, " row_starts"]]:
    """Indices of the `count` largest of `x @ weight.T + bias` in the whole batch, flat in row order, and where each row begins.

    Under bfloat16 autocast candidates are ranked as in `topk_indices`.
    """
    d_sae = weight.shape[0]
    with torch.no_grad():
        rough = functional.linear(x, weight, bias)
        if rough.dtype == weight.dtype:
            chosen = _largest(rough, count).sort().values
        else:
            candidates = _largest(rough, min(count + count // _SPARE, rough.numel())).sort().values
            features = candidates % d_sae
            exact = gather_dot(x, weight, features, _row_starts(candidates // d_sae, len(x))) + bias[features]
            chosen = candidates[exact.topk(count, sorted=False).indices].sort().values
        return chosen % d_sae, _row_starts(chosen // d_sae, len(x))


def _row_starts(row: Int[Tensor, " n"], num_rows: int) -> Int[Tensor, " row_starts"]:
    return torch.searchsorted(row, torch.arange(num_rows + 1, device=row.device))


def _largest(values: Float[Tensor, "row d_sae"], count: int) -> Int[Tensor, " {count}"]:
    """Flat indices of the `count` largest values, in no order.

    On a CPU a selection among all is slow. What exceeds a threshold guessed from some of the rows is found in one pass, and where that
    are enough, but not many more than enough, the largest are among them.
    """
    flat = values.flatten()
    if flat.device.type == "cpu" and len(values) >= 8 * _GUESS:
        some = values[::_GUESS].flatten()
        asked = min(len(some), count * len(some) // len(flat) * 5 // 4 + 1)
        over = (flat > some.topk(asked, sorted=False).values.min()).nonzero()[:, 0]
        if count <= len(over) <= _MARGIN * count:
            return over[flat[over].topk(count, sorted=False).indices]
    return flat.topk(count, sorted=False).indices


def gather_dot(
    x: Float[Tensor, "row d_in"],
    weight: Float[Tensor, "d_sae d_in"],
    indices: Int[Tensor, "*codes"],
    starts: Starts = None,
) -> Float[Tensor, "*codes"]:
    """Dot products of each row of x with the weight rows that its indices name. Differentiable in `x` and `weight`."""
    return _GatherDot.apply(x, weight, indices, starts)  # pyright: ignore[reportReturnType]


def gather_sum(
    values: Float[Tensor, "*codes"],
    indices: Int[Tensor, "*codes"],
    weight: Float[Tensor, "d_sae d_in"],
    starts: Starts = None,
) -> Float[Tensor, "row d_in"]:
    """Sums of weight rows, each times its value. Differentiable in `values` and `weight`."""
    return _GatherSum.apply(values, indices, weight, starts)  # pyright: ignore[reportReturnType]


def segment_sum(
    values: Float[Tensor, "*codes"],
    indices: Int[Tensor, "*codes"],
    x: Float[Tensor, "row d_in"],
    d_sae: int,
    starts: Starts = None,
) -> Float[Tensor, "d_sae d_in"]:
    """For each feature the sum of the rows at which it is active, each times its value. The order of summation is fixed."""
    features, order = indices.reshape(-1).sort(stable=True)
    bounds = torch.searchsorted(features, torch.arange(d_sae + 1, device=x.device))
    rows, weights = _rows(indices, starts)[order], values.reshape(-1)[order]
    if x.device.type == "cpu":
        return functional.embedding_bag(rows, x, bounds, mode="sum", per_sample_weights=weights, include_last_offset=True)
    pieces, ends = _pieces(bounds, len(rows))
    parts = functional.embedding_bag(rows, x, pieces, mode="sum", per_sample_weights=weights, include_last_offset=True)
    return functional.embedding_bag(torch.arange(len(parts), device=x.device), parts, ends, mode="sum", include_last_offset=True)


def _pieces(bounds: Int[Tensor, " feature_starts"], entries: int) -> tuple[Int[Tensor, " piece_starts"], Int[Tensor, " feature_starts"]]:
    """Where pieces of at most `_PIECE` entries begin, and at which piece each feature begins; pieces that are not needed are empty.

    A GPU adds up a segment one entry after the other, so that one feature that is active on every row would hold up all others.
    """
    ends = functional.pad(((bounds.diff() + _PIECE - 1) // _PIECE).cumsum(0), (1, 0))
    number = torch.arange(len(bounds) + entries // _PIECE, device=bounds.device)
    feature = torch.searchsorted(ends, number, right=True) - 1
    inside = feature < len(bounds) - 1
    feature = feature.clamp(max=len(bounds) - 2)
    return torch.where(inside, bounds[feature] + _PIECE * (number - ends[feature]), entries), ends


def _rows(indices: Tensor, starts: Tensor | None) -> Int[Tensor, " n"]:
    """The row that each entry belongs to."""
    if starts is None:
        return torch.arange(len(indices), device=indices.device).repeat_interleave(indices.shape[1])
    numbers = torch.arange(len(starts) - 1, device=indices.device)
    return numbers.repeat_interleave(starts.diff(), output_size=len(indices))


def _dots(x: Tensor, weight: Tensor, indices: Tensor, starts: Tensor | None) -> Tensor:
    """The values of `gather_dot`, by a dense product sampled at the indices."""
    flat = indices.reshape(-1)
    if starts is None:
        starts = torch.arange(0, indices.numel() + 1, indices.shape[1], device=x.device)
    where = torch.sparse_csr_tensor(starts, flat, x.new_zeros(len(flat)), (len(x), len(weight)), check_invariants=False)
    return torch.sparse.sampled_addmm(where, x, weight.T, beta=0.0).values().view(indices.shape)


def _sums(values: Tensor, indices: Tensor, weight: Tensor, starts: Tensor | None) -> Tensor:
    """The values of `gather_sum`."""
    if starts is None:
        return functional.embedding_bag(indices, weight, mode="sum", per_sample_weights=values)
    return functional.embedding_bag(indices, weight, starts, mode="sum", per_sample_weights=values, include_last_offset=True)


class _GatherDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, indices: Tensor, starts: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, indices, starts)  # pyright: ignore[reportArgumentType] - none is fine
        return _dots(x, weight, indices, starts)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, indices, starts = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        need_x, need_weight, *_ = ctx.needs_input_grad  # pyright: ignore[reportAttributeAccessIssue]
        return (
            _sums(grad, indices, weight, starts) if need_x else None,
            segment_sum(grad, indices, x, weight.shape[0], starts) if need_weight else None,
            None,
            None,
        )


class _GatherSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, indices: Tensor, weight: Tensor, starts: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, indices, weight, starts)  # pyright: ignore[reportArgumentType] - none is fine
        return _sums(values, indices, weight, starts)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, indices, weight, starts = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        need_values, _, need_weight, _ = ctx.needs_input_grad  # pyright: ignore[reportAttributeAccessIssue]
        grad = grad.contiguous()
        return (
            _dots(grad, weight, indices, starts) if need_values else None,
            None,
            segment_sum(values, indices, grad, weight.shape[0], starts) if need_weight else None,
            None,
        )
