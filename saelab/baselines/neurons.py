"""The neurons: each dimension of the activations, as it is.

z_i = x_i - mean_i for the k dimensions furthest from their mean
"""

from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.baselines.base import Baseline
from saelab.dictionary import DICTIONARIES
from saelab.values import value


@DICTIONARIES.register("neurons")
class Neurons(Baseline):
    """A dictionary whose directions are the axes."""

    architecture: ClassVar[str] = "neurons"

    @value
    class Config(Baseline.Config):
        """Settings of the neurons."""

    @classmethod
    def fit(cls, sample: Float[Tensor, "row d_in"], k: int, d_sae: int | None = None, seed: int = 0) -> Self:
        """The axes, around the sample's mean. Raises `Invalid` if k is larger than the width."""
        d_in = sample.shape[1]
        axes = torch.eye(d_in)
        tensors = {"W_enc": axes, "b_enc": torch.zeros(d_in), "W_dec": axes, "b_dec": sample.double().mean(0)}
        return cls(d_in, d_in, k).assign(tensors)
