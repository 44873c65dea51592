"""Pursuit: codes found by search over a dictionary's directions, where an encoder would guess them in one product.

Every round picks the direction that points most along what is still unexplained, r = x - b - Σ_i z_i d_i, and then sets the codes:

    matching      z_new += r·d / |d|²                                   Mallat & Zhang 1993; a direction may be picked again
    gradient      z_S += a g with g = D_S r and a = r·y / |y|², y = g D_S  Blumensath & Davies 2008: one step of steepest descent
    orthogonal    z_S = the least squares over all directions picked so far  Pati, Rezaiifar & Krishnaprasad 1993

Any dictionary will do, and codes may have either sign: a vector that points against a feature has a code below 0, which no ReLU encoder can
say (Mayne et al. 2024, "Can sparse autoencoders be used to decompose and interpret steering vectors?", https://arxiv.org/abs/2411.08790).
"""

from typing import Literal

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from saelab.dictionary import Codes, Dictionary
from saelab.errors import Invalid

Method = Literal["matching", "gradient", "orthogonal"]
"""How the codes are set after each pick."""
_ROWS = 1024
"""Rows that are searched at a time: each needs a product with all directions a round."""
_RIDGE = 1e-6
"""Added to the diagonal of unit directions' products, so that two that are alike do not break the least squares."""


@torch.no_grad()
def pursue(dictionary: Dictionary, x: Float[Tensor, "*batch d_out"], k: int, method: Method = "gradient", signed: bool = True) -> Codes:
    """Codes with at most k features a token that explain activations by the dictionary's directions, whatever its own encoder says.

    Arguments:
    - `x`: raw activations, or any other vectors of the hook's space once the dictionary's bias is added to them.
    - `method`: how codes are set after each pick; the later ones in the list explain more and take longer.
    - `signed`: codes may be negative; otherwise directions are only ever added.

    Raises `Invalid` if k is not between 1 and the number of features.
    """
    if not 1 <= k <= dictionary.d_sae:
        raise Invalid(f"k is {k}; it must be between 1 and the number of features, {dictionary.d_sae}.")
    directions = dictionary.directions
    zero = torch.zeros(1, 1, device=directions.device)
    bias = dictionary.decode(Codes(indices=zero.long(), values=zero.to(directions.dtype), d_sae=dictionary.d_sae))
    rows = x.reshape(-1, dictionary.d_out).to(directions) - bias
    found = [search(part, directions, k, method, signed) for part in rows.split(_ROWS)] or [search(rows, directions, k, method, signed)]
    indices, values = (torch.cat(parts).view(*x.shape[:-1], k) for parts in zip(*found, strict=True))
    return Codes(indices=indices, values=values, d_sae=dictionary.d_sae)


def search(
    rows: Float[Tensor, "row d"], directions: Float[Tensor, "feature d"], k: int, method: Method = "matching", signed: bool = False
) -> tuple[Int[Tensor, "row {k}"], Float[Tensor, "row {k}"]]:
    """Indices and values of the codes after k rounds, for vectors without a bias. Slots that no round needed hold 0."""
    squares = directions.square().sum(1)
    indices = torch.zeros(len(rows), k, dtype=torch.long, device=rows.device)
    values = rows.new_zeros(len(rows), k)
    used = torch.zeros_like(values, dtype=torch.bool)
    for number in range(k):
        picked = directions[indices] * used[..., None]
        residual = rows - einsum(values, picked, "row slot, row slot d -> row d")
        gain = residual @ directions.T / squares.sqrt()
        new = (gain.abs() if signed else gain).argmax(1)
        again = (indices == new[:, None]) & used
        slot = torch.where(again.any(1), again.int().argmax(1), number)
        indices.scatter_(1, slot[:, None], new[:, None])
        used.scatter_(1, slot[:, None], True)
        values = _set(rows, residual, directions[indices] * used[..., None], values, slot, method)
        values = values if signed else values.clamp(min=0.0)
    return indices, values


def _set(
    rows: Float[Tensor, "row d"],
    residual: Float[Tensor, "row d"],
    picked: Float[Tensor, "row slot d"],
    values: Float[Tensor, "row slot"],
    slot: Int[Tensor, " row"],
    method: Method,
) -> Float[Tensor, "row slot"]:
    """The codes after a pick; `picked` has a zero row for each slot that is still free."""
    along = einsum(picked, residual, "row slot d, row d -> row slot")
    if method == "matching":
        square = picked.gather(1, slot[:, None, None].expand(-1, -1, picked.shape[2])).square().sum((1, 2))
        return values.scatter_add(1, slot[:, None], along.gather(1, slot[:, None]) / square[:, None])
    if method == "gradient":
        step = einsum(along, picked, "row slot, row slot d -> row d")
        length = (residual * step).sum(1) / step.square().sum(1).clamp(min=torch.finfo(step.dtype).tiny)
        return values + length[:, None] * along
    gram = einsum(picked, picked, "row a d, row b d -> row a b")
    free = (picked.square().sum(2) == 0).to(gram.dtype)
    ridge = torch.diag_embed(free + _RIDGE * gram.diagonal(dim1=1, dim2=2).amax(1, keepdim=True))
    target = einsum(picked, rows, "row slot d, row d -> row slot")
    return torch.linalg.solve(gram + ridge, target)
