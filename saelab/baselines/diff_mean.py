"""Difference of means: from the mean activation without a concept to the mean with it (Marks & Tegmark 2023).

n_c = m⁺_c - m_c        the plane lies halfway between the two means

https://arxiv.org/abs/2310.06824; in steering it holds its own against SAEs (Wu et al. 2025, https://arxiv.org/abs/2501.17148).
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from saelab.baselines.supervised import Supervised
from saelab.dictionary import DICTIONARIES
from saelab.values import value


@DICTIONARIES.register("diff_mean")
class DiffMean(Supervised):
    """A dictionary whose directions are differences of means."""

    architecture: ClassVar[str] = "diff_mean"

    @value
    class Config(Supervised.Config):
        """A difference of means has no settings."""

    @classmethod
    def planes(
        cls,
        rows: Float[Tensor, "row d_in"],
        present: Float[Tensor, "row concept"],
        with_concept: Float[Tensor, "concept d_in"],
        without: Float[Tensor, "concept d_in"],
    ) -> tuple[Float[Tensor, "concept d_in"], Float[Tensor, " concept"]]:
        """Across the lines between both means of each concept, at their middle."""
        normals = with_concept - without
        return normals, -(normals * (with_concept + without)).sum(1) / 2
