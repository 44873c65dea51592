"""Matryoshka sparse autoencoder: nested dictionaries, each a prefix of the next.

    loss = the mean over prefixes p of |x - x̂_p|² / scale² + the auxiliary term        x̂_p = Σ_{i < p} z_i decoder_i + b_dec

Bussmann et al. 2025, "Learning multi-level features with Matryoshka sparse autoencoders", https://arxiv.org/abs/2503.17547. Codes are those
of BatchTopK. The features of a short prefix must explain activations without the others, so they stay general: they do not lose their
special cases to later ones.
"""

from itertools import accumulate
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from saelab.dictionary import DICTIONARIES
from saelab.errors import Invalid
from saelab.kernels.nested import nested
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
        self.prefixes = tuple(sorted({max(1, round(share * self.d_sae)) for share in accumulate(config.groups)}))
        """Features of each nested dictionary."""

    def errors(
        self, task: Task, kept: Kept, weights: Weights
    ) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, "row d_out"], Float[Tensor, ""]]:
        """The mean of the prefixes' squared errors; and what all features leave."""
        assert kept.starts is not None, "the codes of a whole batch are flat"
        firsts = tuple(low - self.ranks.first for low in (0, *self.prefixes[:-1]))
        total = None if self.ranks.shards == 1 else self.ranks.total
        codes = kept.values, kept.indices, weights.decoder, kept.starts
        mean, residual, error = nested(*codes, firsts, task.wanted, task.shift, total)
        return {"reconstruction": mean / self.scale**2}, residual, error
