"""Principal components of a sample (Hotelling 1933).

z_i = (x - mean) · v_i for the k components of largest magnitude on the token, v_i the eigenvectors of the covariance
"""

from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.baselines.base import Baseline
from saelab.dictionary import DICTIONARIES
from saelab.values import value


@DICTIONARIES.register("pca")
class PCA(Baseline):
    """A dictionary whose directions are the principal components, the strongest first."""

    architecture: ClassVar[str] = "pca"

    @value
    class Config(Baseline.Config):
        """Settings of principal components."""

    @classmethod
    def fit(cls, sample: Float[Tensor, "row d_in"], k: int, d_sae: int | None = None, seed: int = 0) -> Self:
        """Mean and principal directions of the sample. Raises `Invalid` if k is larger than the width."""
        rows = sample.double()
        mean, d_in = rows.mean(0), rows.shape[1]
        components = torch.linalg.eigh((rows - mean).T @ (rows - mean)).eigenvectors.flip(1).T
        tensors = {"W_enc": components.T, "b_enc": torch.zeros(d_in), "W_dec": components, "b_dec": mean}
        return cls(d_in, d_in, k).assign(tensors)
