"""Linear probes: logistic regression of each concept on the activation.

minimise over n, b   Σ_rows log(1 + exp(-y (n · x / s + b))) + |n|² / 2        y = 1 with the concept, -1 without; s the inputs' scale

The plane is where the probe is undecided. Regressions of different concepts share nothing, and are solved together by L-BFGS.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saelab.affine import input_statistics
from saelab.baselines.supervised import Supervised
from saelab.dictionary import DICTIONARIES
from saelab.values import value

_ROUNDS = 500


@DICTIONARIES.register("probe")
class Probe(Supervised):
    """A dictionary whose directions are those of linear probes."""

    architecture: ClassVar[str] = "probe"

    @value
    class Config(Supervised.Config):
        """A linear probe has no settings."""

    @classmethod
    def planes(
        cls,
        rows: Float[Tensor, "row d_in"],
        present: Float[Tensor, "row concept"],
        with_concept: Float[Tensor, "concept d_in"],
        without: Float[Tensor, "concept d_in"],
    ) -> tuple[Float[Tensor, "concept d_in"], Float[Tensor, " concept"]]:
        """Where the logistic regression of each concept gives both answers the same chance."""
        scale = input_statistics(rows)[1]
        scaled = rows / scale
        share = present.mean(0)
        normals, offsets = torch.zeros_like(with_concept), torch.log(share / (1 - share))
        optimiser = torch.optim.LBFGS(
            [normals.requires_grad_(), offsets.requires_grad_()],
            max_iter=_ROUNDS,
            tolerance_grad=1e-7,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            wrong = functional.binary_cross_entropy_with_logits(functional.linear(scaled, normals, offsets), present, reduction="sum")
            total = (wrong + normals.square().sum() / 2) / len(rows)
            total.backward()
            return total

        with torch.enable_grad():
            optimiser.step(loss)
        return normals.detach() / scale, offsets.detach()
