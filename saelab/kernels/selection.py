"""The choice of the active features: the largest pre-activations of each row, or of the whole batch.

Only the choice multiplies by all features, and it needs no gradient. Under bfloat16 autocast the product is in bfloat16. On a CPU a quarter
more candidates are ranked by it than are asked for, and the best of them by exact dot products: that keeps the exact set but for a few in a
million. On a GPU (`saelab.kernels.gpu.select`) the ranking is that of the bfloat16 values, which changes one in a hundred; they are the
activations too.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saelab.kernels.low import low
from saelab.kernels.segments import prepare_segments
from saelab.kernels.sparse import HAS_TRITON, fast, gather_dot

_SPARE = 4
"""One candidate in so many more than asked for is looked at when candidates are ranked in bfloat16."""
_GUESS = 16
"""The choice over a whole batch first guesses its threshold from one row in so many."""
_MARGIN = 2
"""And then looks at the entries over the guess, where there are at most so many times as many as are asked for."""
_PART = 2**22
"""Pre-activations that a CPU makes and ranks in one go. They stay in its cache, and the allocator gives the same memory again and again,
where that of a whole batch comes from the system, page by page, at every step."""


def topk_codes(
    x: Float[Tensor, "row d_in"], weight: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], k: int, signed: bool = False
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of `x @ weight.T + bias` in each row, differentiable, and their indices, in no order.

    Arguments:
    - `signed`: the k largest by magnitude.
    """
    with torch.no_grad():
        known, indices = _topk(x, weight, bias, k, signed)
    return gather_dot(x, weight, indices, bias=bias, known=known), indices


def topk_places(values: Float[Tensor, "row width"], k: int) -> Int[Tensor, "row k"]:
    """Where the k largest of each row are, in no order."""
    if HAS_TRITON and values.is_cuda and values.dtype == torch.bfloat16:
        from saelab.kernels.gpu.select import topk_places as found

        return found(values, k)[1]
    return values.topk(k, sorted=False).indices


def batch_topk_codes(
    x: Float[Tensor, "row d_in"], weight: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], count: int
) -> tuple[Float[Tensor, " {count}"], Int[Tensor, " {count}"], Int[Tensor, " row_starts"]]:
    """The `count` largest of `x @ weight.T + bias` in the batch, differentiable; their indices, flat in row order; where rows begin."""
    with torch.no_grad():
        known, rows, indices = _batch_topk(x, weight, bias, count)
        starts = _row_starts(rows, len(x))
    if fast(weight) and torch.is_grad_enabled():
        prepare_segments(indices, starts, len(weight), rows)
    return gather_dot(x, weight, indices, starts, bias, known), indices, starts


def _topk(x: Tensor, weight: Tensor, bias: Tensor, k: int, signed: bool) -> tuple[Tensor | None, Tensor]:
    """The k largest of each row, if they are known, and their indices."""
    if fast(weight):
        from saelab.kernels.gpu.select import topk_places

        return topk_places(functional.linear(low(x), low(weight), low(bias)), k, signed)
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else weight.dtype
    if dtype == weight.dtype:
        return None, _ranked(x, weight, bias, k, signed)
    candidates = _ranked(x.to(dtype), weight.to(dtype), bias.to(dtype), min(k + max(1, k // _SPARE), weight.shape[0]), signed)
    exact = gather_dot(x, weight, candidates, bias=bias)
    best = (exact.abs() if signed else exact).topk(k, sorted=False).indices
    return exact.gather(1, best), candidates.gather(1, best)


def _ranked(x: Tensor, weight: Tensor, bias: Tensor, k: int, signed: bool) -> Int[Tensor, "row k"]:
    """The k largest of each row by one dense product."""
    rows = max(256, _PART // len(weight) // 64 * 64) if x.device.type == "cpu" else max(1, len(x))  # products like round numbers
    parts = (functional.linear(part, weight, bias) for part in x.split(rows))
    return torch.cat([(part.abs_() if signed else part).topk(k, sorted=False).indices for part in parts])


def _batch_topk(x: Tensor, weight: Tensor, bias: Tensor, count: int) -> tuple[Tensor | None, Tensor, Tensor]:
    """The largest of the batch, if they are known, and their rows and features, in order."""
    if fast(weight):
        from saelab.kernels.gpu.select import batch_topk_places

        return batch_topk_places(functional.linear(low(x), low(weight), low(bias)), count)
    rough = functional.linear(x, weight, bias)
    if rough.dtype == weight.dtype:
        places = _largest(rough, count).sort().values
        return None, places // len(weight), places % len(weight)
    candidates = _largest(rough, min(count + count // _SPARE, rough.numel())).sort().values
    exact = gather_dot(x, weight, candidates % len(weight), _row_starts(candidates // len(weight), len(x)), bias)
    best = exact.topk(count, sorted=False).indices.sort().values
    return exact[best], candidates[best] // len(weight), candidates[best] % len(weight)


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
