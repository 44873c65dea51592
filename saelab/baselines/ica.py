"""Independent components of a sample, by FastICA (Hyvärinen & Oja 2000, https://doi.org/10.1016/S0893-6080(00)00026-5).

y   = Λ^-½ Vᵀ (x - mean), of unit covariance V Λ Vᵀ
W  ← E[tanh(W y) yᵀ] - diag(E[1 - tanh²(W y)]) W, then W ← (W Wᵀ)^-½ W, until no row turns any more
z_i = |a_i| · (W y)_i for the k components of largest magnitude on the token, directions a_i / |a_i| with a_i the columns of V Λ^½ Wᵀ
"""

from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.baselines.base import Baseline
from saelab.dictionary import DICTIONARIES
from saelab.values import value

_ROUNDS = 200
_SETTLED = 1e-8
"""How far the cosine of a row with itself a round ago may be from 1."""
_FLAT = 1e-12
"""Dimensions with a smaller share of the largest variance hold nothing but rounding."""


@DICTIONARIES.register("ica")
class ICA(Baseline):
    """A dictionary whose directions are the independent components, the strongest first."""

    architecture: ClassVar[str] = "ica"

    @value
    class Config(Baseline.Config):
        """Settings of independent components."""

        seed: int = 0
        """Seed of the start."""

    @classmethod
    def fit(cls, sample: Float[Tensor, "row d_in"], k: int, d_sae: int | None = None, seed: int = 0) -> Self:
        """As many components as dimensions, from a start drawn from the seed. Raises `Invalid` if k is larger than the width.

        Components that have not settled after 200 rounds, such as Gaussian ones, which nothing tells apart, stay as they are.
        """
        rows = sample.double()
        mean, d_in = rows.mean(0), rows.shape[1]
        variances, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        largest = variances.max()
        sizes = variances.clamp(min=_FLAT * largest).sqrt() if largest > 0 else torch.ones_like(variances)
        unmixing = _separated((rows - mean) @ axes / sizes, torch.Generator().manual_seed(seed))
        encoder, mixing = unmixing @ (axes / sizes).T, unmixing @ (axes * sizes).T
        strongest = mixing.norm(dim=1).argsort(descending=True)
        encoder, mixing = encoder[strongest], mixing[strongest]
        norm = mixing.norm(dim=1, keepdim=True)
        tensors = {"W_enc": (encoder * norm).T, "b_enc": torch.zeros(d_in), "W_dec": mixing / norm, "b_dec": mean}
        return cls(d_in, d_in, k).assign(tensors)


def _separated(white: Float[Tensor, "row d_in"], generator: torch.Generator) -> Float[Tensor, "d_in d_in"]:
    """The rotation of whitened rows whose components are as independent as can be."""
    width = white.shape[1]
    turn = _decorrelated(torch.randn(width, width, generator=generator, dtype=white.dtype).to(white.device))
    for _ in range(_ROUNDS):
        before, bent = turn, torch.tanh(white @ turn.T)
        turn = _decorrelated(bent.T @ white / len(white) - (1 - bent.square()).mean(0)[:, None] * turn)
        if float((1 - (turn * before).sum(1).abs()).max()) < _SETTLED:
            break
    return turn


def _decorrelated(turn: Float[Tensor, "d_in d_in"]) -> Float[Tensor, "d_in d_in"]:
    """The nearest orthogonal matrix: (W Wᵀ)^-½ W."""
    left, _, right = torch.linalg.svd(turn)
    return left @ right
