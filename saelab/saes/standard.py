"""Standard sparse autoencoder: ReLU and an L1 penalty.

    z = relu((x - b_dec) encoderᵀ + b_enc)        x̂ = z decoder + b_dec
    loss = |x - x̂|² / scale² + l1 · Σ zᵢ |decoderᵢ| / (scale √d_in)

Bricken et al. 2023, "Towards monosemanticity", https://transformer-circuits.pub/2023/monosemantic-features; the penalty with the
decoder's norms, which are free, and its warm-up over the first twentieth of the run are those of Conerly et al. 2024, "Update on how we
train SAEs", https://transformer-circuits.pub/2024/april-update. Their coefficient λ, for inputs of mean square norm d_in, is l1 · √d_in.
"""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saelab.dictionary import DICTIONARIES
from saelab.saes.base import Weights
from saelab.saes.penalised import L1, Fired
from saelab.values import value


@DICTIONARIES.register("standard")
class Standard(L1):
    """Positive pre-activations are the codes."""

    architecture: ClassVar[str] = "standard"
    layout: ClassVar[str] = "standard"

    @value
    class Config(L1.Config):
        """Settings of a standard SAE."""

        decoder: Literal["unit", "free"] = "free"
        """unit: decoder rows have norm 1. free: they may have any, and a feature counts by its activation times that norm."""

    def activation(self, pre: Float[Tensor, "row d_sae"], weights: Weights) -> Float[Tensor, "row d_sae"]:
        """The positive part."""
        return functional.relu(pre)

    def penalty(self, fired: Fired) -> Float[Tensor, ""]:
        """The L1 norm of the codes."""
        return self.norms(fired.codes)
