"""What supervised directions share: one for each labelled concept, and codes that say whether and how much of it there is.

    z_c = d_c · (x - m_c) where that exceeds θ_c, else 0        x̂ = mean + Σ_c (z_c - mean of z_c) d_c

m_c is the mean of the rows without the concept, so that a code is the distance from them along the unit direction d_c, and taking it away
leaves a typical row without the concept. θ_c is the distance at which the plane lies that parts the rows with the concept from those
without: a feature fires where its classifier says that the concept is there. The layout is that of a JumpReLU SAE.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from saelab.affine import Affine
from saelab.dictionary import Codes, Places
from saelab.errors import Invalid
from saelab.values import value


class Supervised(Affine):
    """Abstract: a dictionary with a direction for each concept that rows were labelled with. Codes are not negative."""

    layout: ClassVar[str] = "jumprelu"
    places: ClassVar[Places] = "labelled"

    @value
    class Config:
        """What directions that labels teach are fitted with, beside activations and labels."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__(d_in, d_sae)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.zeros(d_sae))
        self.requires_grad_(False)

    @classmethod
    def fit(cls, sample: Float[Tensor, "row d_in"], labels: Bool[Tensor, "row concept"]) -> Self:
        """A direction for each concept. Raises `Invalid` for labels that do not fit the rows, or a concept on all rows or none."""
        _check(sample, labels)
        rows, present = sample.double(), labels.to(sample.device).double()
        mean, counts = rows.mean(0), present.sum(0)[:, None]
        sums = present.T @ (rows - mean)
        with_concept, without = sums / counts, -sums / (len(rows) - counts)
        normals, offsets = cls.planes(rows - mean, present, with_concept, without)
        norms = normals.norm(dim=1).clamp(min=torch.finfo(normals.dtype).tiny)
        directions = functional.normalize(normals, dim=1)
        typical = (directions * without).sum(1)
        threshold = (-offsets / norms - typical).clamp(min=0)
        codes = (rows - mean) @ directions.T - typical
        shift = -(codes * (codes > threshold)).mean(0) @ directions
        tensors = {"W_enc": directions.T, "b_enc": directions @ shift - typical, "W_dec": directions, "b_dec": mean + shift}
        return cls._made({**tensors, "threshold": threshold}).to(sample.device)

    @classmethod
    @abstractmethod
    def planes(
        cls,
        rows: Float[Tensor, "row d_in"],
        present: Float[Tensor, "row concept"],
        with_concept: Float[Tensor, "concept d_in"],
        without: Float[Tensor, "concept d_in"],
    ) -> tuple[Float[Tensor, "concept d_in"], Float[Tensor, " concept"]]:
        """Normals n and offsets b of the planes n · x + b = 0 that part the rows with each concept (above 0) from those without.

        All in float64, the rows around their mean, `present` 0 or 1, with the means of both kinds of rows.
        """

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The concepts that are there, with the distance of the activation from those without."""
        encoder, bias, _ = self.weights()
        pre = functional.linear(self.centred(x), encoder, bias).to(encoder.dtype)
        return Codes.from_dense((pre * (pre > self.threshold)).view(*x.shape[:-1], self.d_sae))

    def settings(self) -> dict[str, Any]:
        """Nothing beyond the sizes."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The weights under SAELens' names."""
        return {**super().tensors(), "threshold": self.threshold}

    @classmethod
    def shapes(cls, d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that a file must hold."""
        return {**super().shapes(d_in, d_sae), "threshold": (d_sae,)}

    @classmethod
    def restored(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The dictionary of a file's settings and tensors."""
        return cls._made(tensors)

    @classmethod
    def _made(cls, tensors: Mapping[str, Tensor]) -> Self:
        d_sae, d_in = tensors["W_dec"].shape
        dictionary = cls(d_in, d_sae).assign(tensors)
        dictionary.threshold.copy_(tensors["threshold"])
        return dictionary


def _check(sample: Tensor, labels: Tensor) -> None:
    if labels.dtype != torch.bool or labels.ndim != 2 or len(labels) != len(sample):
        raise Invalid(
            f"The labels are {labels.dtype} of shape {list(labels.shape)}; expected booleans, a row for each of the {len(sample)} "
            "activations and a column a concept."
        )
    counts = labels.sum(0)
    useless = ((counts == 0) | (counts == len(labels))).nonzero()[:, 0].tolist()
    if useless or not labels.shape[1]:
        raise Invalid(
            f"Concepts that are on all of the {len(labels)} rows or on none of them cannot be told from the rest: "
            f"{', '.join(map(str, useless[:10])) or 'there is no concept at all'}. Label rows of both kinds."
        )
