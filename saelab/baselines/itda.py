"""ITDA: activations themselves as the dictionary.

z = matching pursuit of x - mean over the directions, at most k rounds        directions = centred activations, scaled to norm 1

A row of the sample becomes a direction where k rounds over the directions so far leave more than a given share of its square. Leask,
Nanda and Al Moubayed 2025, "Inference-time decomposition of activations (ITDA)", https://arxiv.org/abs/2505.17769. No gradient is needed,
and each direction is some token's activation: two models that read the same tokens are compared by which of them became directions.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saelab.baselines.base import Baseline
from saelab.dictionary import DICTIONARIES, Codes
from saelab.errors import Invalid
from saelab.pursuit import pursue, search
from saelab.values import value

_ROWS = 32
"""Rows of the sample that are looked at between two enlargements of the dictionary."""
_NOTHING = 1e-6
"""A row whose distance from the mean has a smaller square than so many times the mean square of a value is the mean itself."""


@DICTIONARIES.register("itda")
class ITDA(Baseline):
    """A dictionary of activations, read by matching pursuit. Codes are not negative."""

    architecture: ClassVar[str] = "itda"
    layout: ClassVar[str] = "matching_pursuit"
    origin: Int[Tensor, " d_sae"] | None = None
    """Which row of the sample each direction was; not saved."""

    @value
    class Config(Baseline.Config):
        """Settings of ITDA."""

        d_sae: int | None = None
        """Number of directions, at most; none for eight a dimension."""
        seed: int = 0
        """Seed of the order in which the activations are looked at."""
        tolerance: float = 0.3
        """Share of an activation's square that may be left unexplained without the activation becoming a direction."""

    @classmethod
    def fit(cls, sample: Float[Tensor, "row d_in"], k: int, d_sae: int | None = None, seed: int = 0, tolerance: float = 0.3) -> Self:
        """One pass over the sample in random order, until there are `d_sae` directions (none: eight a dimension).

        There are fewer where the sample is explained by fewer.

        Arguments:
        - `tolerance`: share of a row's square that may be left unexplained without the row becoming a direction.
        """
        if not 0 < tolerance < 1:
            raise Invalid(f"tolerance is {tolerance}; it is a share of an activation's square, between 0 and 1.")
        limit = d_sae or 8 * sample.shape[1]
        mean = sample.double().mean(0).float()
        squares = (sample.float() - mean).square().sum(1)
        order = torch.randperm(len(sample), generator=torch.Generator().manual_seed(seed))
        directions, origin = sample.new_zeros(0, sample.shape[1]).float(), order[:0]
        for numbers in order[squares[order] > _NOTHING * sample.float().square().mean()].split(_ROWS):
            rows = functional.normalize(sample[numbers].float() - mean, dim=1)
            new = _unexplained(rows, directions, k, tolerance)[: limit - len(directions)]
            directions, origin = torch.cat([directions, rows[new]]), torch.cat([origin, numbers[new]])
            if len(directions) == limit:
                break
        if len(directions) < k:
            raise Invalid(f"The sample gives {len(directions)} directions, fewer than k, {k}. Give a larger sample, or a lower tolerance.")
        fitted = cls(sample.shape[1], len(directions), k).assign({"W_dec": directions, "b_dec": mean})
        fitted.origin = origin
        return fitted

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """K rounds of matching pursuit."""
        return pursue(self, x, self.k, "matching", signed=False)

    def settings(self) -> dict[str, Any]:
        """What SAELens' `cfg.json` says beyond the sizes."""
        return {"max_iterations": self.k, "residual_threshold": 0.0, "stop_on_duplicate_support": False}

    def tensors(self) -> dict[str, Tensor]:
        """The weights under SAELens' names."""
        return {"W_dec": self.decoder, "b_dec": self.b_dec}

    @classmethod
    def shapes(cls, d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that a file must hold."""
        return {"W_dec": (d_sae, d_in), "b_dec": (d_in,)}

    @torch.no_grad()
    def assign(self, tensors: Mapping[str, Tensor]) -> Self:
        """Takes over directions and mean."""
        directions = tensors["W_dec"]
        none = directions.new_zeros(len(directions))
        return super().assign({"W_enc": directions.T, "b_enc": none, "W_dec": directions, "b_dec": tensors["b_dec"]})

    @classmethod
    def restored(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The dictionary of a file's settings and tensors."""
        d_sae, d_in = tensors["W_dec"].shape
        return cls(d_in, d_sae, min(settings.get("max_iterations") or d_in, d_sae)).assign(tensors)


def overlap(one: Int[Tensor, " feature"], other: Int[Tensor, " feature"]) -> float:
    """Jaccard overlap of two dictionaries' origins: how alike two models see the same tokens."""
    first, second = set(one.tolist()), set(other.tolist())
    return len(first & second) / max(1, len(first | second))


def _unexplained(rows: Float[Tensor, "row d"], directions: Float[Tensor, "feature d"], k: int, tolerance: float) -> Int[Tensor, " new"]:
    """Rows of norm 1 that neither the directions nor an unexplained row before them explains."""
    left = torch.ones(len(rows))
    if len(directions):
        indices, values = search(rows, directions, min(k, len(directions)))
        left = (rows - (values[..., None] * directions[indices]).sum(1)).square().sum(1)
    kept: list[int] = []
    for number in (left > tolerance).nonzero()[:, 0].tolist():
        if not kept or float((rows[kept] @ rows[number]).max()) ** 2 < 1 - tolerance:
            kept.append(number)
    return torch.tensor(kept, dtype=torch.long)
