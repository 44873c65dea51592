"""AbsTopK sparse autoencoder: signed codes, so that one feature carries both ends of an axis.

    pre = (x - b_dec) encoderᵀ + b_enc        z = pre at the k places where |pre| is largest, else 0        x̂ = z decoder + b_dec

Zhu et al. 2025, "AbsTopK: Rethinking sparse autoencoders for bidirectional features", https://arxiv.org/abs/2510.00404. Trained as TopK.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from saelab.dictionary import DICTIONARIES, Codes
from saelab.kernels.selection import topk_codes
from saelab.saes.base import Kept, Selective, Weights
from saelab.values import value


@DICTIONARIES.register("abstopk")
class AbsTopK(Selective):
    """The k pre-activations of largest magnitude of each token are its codes, with their signs."""

    architecture: ClassVar[str] = "abstopk"
    layout: ClassVar[str] = "abstopk"

    @value
    class Config(Selective.Config):
        """Settings of an AbsTopK SAE."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The k pre-activations of largest magnitude of each token, with their signs."""
        values, indices, _ = self.select(self.centred(x), Weights(*self.weights()))
        shape = (*x.shape[:-1], self.config.k)
        return Codes(indices=indices.view(shape), values=values.view(shape), d_sae=self.d_sae)

    def select(self, x: Float[Tensor, "row d_in"], weights: Weights) -> Kept:
        """The k pre-activations of largest magnitude of each row."""
        return Kept(*topk_codes(x, weights.encoder, weights.bias, self.config.k, signed=True))

    def settings(self) -> dict[str, Any]:
        """What SAELens' `cfg.json` says beyond the sizes."""
        return {"k": self.config.k, "rescale_acts_by_decoder_norm": False}
