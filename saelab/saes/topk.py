"""TopK sparse autoencoder.

    z = TopK(relu((x - b_dec) encoderᵀ + b_enc))        x̂ = z decoder + b_dec
    loss = |x - x̂|² / scale² + multi · |x - x̂₄|² / scale² + the auxiliary term      with x̂₄ written by the 4k largest

Gao et al. 2024, "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093. The second term (its section 5.3,
"Multi-TopK", there with weight 1/8) keeps the reconstruction good when more than k features are kept.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from saelab.dictionary import DICTIONARIES, Codes
from saelab.saes.base import Kept, Selective, Task, Weights, largest
from saelab.values import value

_MULTI = 4


@DICTIONARIES.register("topk")
class TopK(Selective):
    """The k largest pre-activations of each token are its codes, where they are positive."""

    architecture: ClassVar[str] = "topk"
    layout: ClassVar[str] = "topk"

    @value
    class Config(Selective.Config):
        """Settings of a TopK SAE."""

        multi: float = 0.0
        """Weight of the error of the reconstruction from four times as many features (Multi-TopK)."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        self.multi = config.multi
        """Weight of the error of the wider reconstruction."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The k largest pre-activations of each token, where they are positive."""
        values, indices, _ = self.select(self.centred(x), Weights(*self.weights()))
        shape = (*x.shape[:-1], self.config.k)
        return Codes(indices=indices.view(shape), values=values.view(shape), d_sae=self.d_sae)

    def select(self, x: Float[Tensor, "row d_in"], weights: Weights) -> Kept:
        """The k largest pre-activations of each row."""
        return largest(x, weights, self.config.k)

    def errors(
        self, task: Task, kept: Kept, weights: Weights
    ) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, "row d_out"], Float[Tensor, ""]]:
        """The squared error, and that of four times as many features where it is asked for."""
        terms, residual, error = super().errors(task, kept, weights)
        if self.multi:
            wide = largest(task.x, weights, min(_MULTI * self.config.k, self.d_sae))
            terms |= {"multi": self.multi * super().errors(task, wide, weights)[0]["reconstruction"]}
        return terms, residual, error

    def settings(self) -> dict[str, Any]:
        """What SAELens' `cfg.json` says beyond the sizes."""
        return {"k": self.config.k, "rescale_acts_by_decoder_norm": False}
