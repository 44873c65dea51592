"""Random directions: what a dictionary reaches that has learnt nothing.

z_i = g · (x - mean) · u_i for the k directions of largest magnitude, u_i random of norm 1
g   = Σ (x - mean)·y / Σ |y|², with y = Σ_i z_i u_i at g = 1: the least-squares gain
"""

from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saelab.baselines.base import Baseline
from saelab.dictionary import DICTIONARIES
from saelab.values import value


@DICTIONARIES.register("random")
class Random(Baseline):
    """A dictionary whose directions are drawn at random; the encoder is tied to them, but for one gain."""

    architecture: ClassVar[str] = "random"

    @value
    class Config(Baseline.Config):
        """Settings of random directions."""

        d_sae: int | None = None
        """Number of directions; none for eight a dimension."""
        seed: int = 0
        """Seed of the directions."""

    @classmethod
    def fit(cls, sample: Float[Tensor, "row d_in"], k: int, d_sae: int | None = None, seed: int = 0) -> Self:
        """`d_sae` random directions (none: eight a dimension) drawn from the seed, and the gain that suits the sample best."""
        rows = sample.float()
        mean, d_in = rows.double().mean(0), rows.shape[1]
        d_sae = d_sae or 8 * d_in
        directions = functional.normalize(torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(seed)), dim=1)
        directions = directions.to(rows.device)
        tensors = {"W_enc": directions.T, "b_enc": torch.zeros(d_sae), "W_dec": directions, "b_dec": mean}
        dictionary = cls(d_in, d_sae, k).to(rows.device).assign(tensors)
        written = dictionary.decode(dictionary.encode(rows)) - dictionary.b_dec
        power = written.double().square().sum()
        gain = ((rows - mean) * written).double().sum() / power if power > 0 else torch.ones(())
        dictionary.encoder.mul_(gain.to(rows.dtype))
        return dictionary
