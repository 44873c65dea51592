"""Matryoshka sparse autoencoder: nested dictionaries, each a prefix of the next.

    loss = the mean over prefixes p of |x - x̂_p|² / scale² + the auxiliary term        x̂_p = Σ_{i < p} z_i decoder_i + b_dec

Bussmann et al. 2025, "Learning multi-level features with Matryoshka sparse autoencoders", https://arxiv.org/abs/2503.17547. Codes are those
of BatchTopK. The features of a short prefix must explain activations without the others, so they stay general: they do not lose their
special cases to later ones.
"""

from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.dictionary import DICTIONARIES
from saelab.errors import Invalid
from saelab.kernels.sparse import gather_sum, mean_square
from saelab.saes.base import Kept, Task, Weights
from saelab.saes.batchtopk import BatchTopK
from saelab.values import value


@DICTIONARIES.register("matryoshka")
class Matryoshka(BatchTopK):
    """A BatchTopK SAE of which every prefix is an SAE."""

    architecture: ClassVar[str] = "matryoshka"

    @value
    class Config(BatchTopK.Config):
        """Settings of a Matryoshka SAE."""

        groups: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
        """Shares of the features that each prefix adds to the one before it; they sum to 1."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        if not config.groups or min(config.groups) <= 0 or abs(sum(config.groups) - 1) > 1e-6:
            raise Invalid(f"groups are {config.groups}; they are shares of the features, each above 0, that sum to 1.")
        shares = torch.tensor(config.groups, dtype=torch.float64).cumsum(0)
        self.prefixes = tuple(sorted({max(1, round(share * self.d_sae)) for share in shares.tolist()}))
        """Features of each nested dictionary."""

    def errors(
        self, task: Task, kept: Kept, weights: Weights
    ) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, "row d_out"], Float[Tensor, ""]]:
        """The mean of the prefixes' squared errors; and what all features leave."""
        residual, means = task.asked, []
        for low, high in pairwise((0, *self.prefixes)):
            mine = (kept.indices >= low) & (kept.indices < high)
            residual = residual - gather_sum(kept.values * mine, kept.indices, weights.decoder, kept.starts)
            means.append(mean_square(residual))
        return {"reconstruction": torch.stack(means).mean() / self.scale**2}, residual.detach(), means[-1].detach() * residual.numel()
