"""SCAR: a TopK sparse autoencoder whose first feature is taught a concept.

    loss = that of TopK + concept · the mean over labelled rows of the cross entropy of sigmoid(pre_0 / scale) with the label

Härle et al. 2024, "SCAR: Sparse conditioned autoencoders for concept detection and steering in LLMs", https://arxiv.org/abs/2411.07122.
The others stay unsupervised, so feature 0 is a detector before a word is written, and a handle to steer by in both directions.
"""

from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saelab.dictionary import DICTIONARIES, Losses, Places
from saelab.saes.topk import TopK
from saelab.values import value


@DICTIONARIES.register("scar")
class Scar(TopK):
    """A training row is an activation and, behind it, the label: above 0 where the concept is present, below where absent, 0 unknown."""

    architecture: ClassVar[str] = "scar"
    places: ClassVar[Places] = "labelled"
    recordable: ClassVar[bool] = False  # not tried on a GPU

    @value
    class Config(TopK.Config):
        """Settings of a SCAR SAE."""

        concept: float = 1.0
        """Weight of the term that teaches the concept."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        self.concept = config.concept
        """Weight of the term that teaches the concept."""

    @property
    def width(self) -> int:
        """The activation and the label."""
        return self.d_in + 1

    def losses(self, rows: Float[Tensor, "row width"], dead: Int[Tensor, " dead"], progress: float | Float[Tensor, ""]) -> Losses:
        """The terms of TopK, and how badly the first feature tells the concept."""
        x, label = rows[:, : self.d_in], rows[:, self.d_in]
        found = super().losses(x, dead, progress)
        encoder, bias, _ = self.weights()
        logit = (self.centred(x) @ encoder[0] + bias[0]) / self.scale
        wrong = functional.binary_cross_entropy_with_logits(
            logit, (label > 0).to(logit.dtype), (label != 0).to(logit.dtype), reduction="sum"
        )
        found.terms["concept"] = self.concept * wrong / (label != 0).sum().clamp(min=1)
        return found
