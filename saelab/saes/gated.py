"""Gated sparse autoencoder: one half decides which features are active, the other how much.

    π = (x - b_dec) encoderᵀ + b_gate        m = exp(r_mag) · (x - b_dec) encoderᵀ + b_mag
    z = relu(m) · [π > 0]                    x̂ = z decoder + b_dec
    loss = |x - x̂|² / scale² + l1 · Σ relu(πᵢ) |decoderᵢ| / (scale √d_in) + |x - relu(π) decoder* - b_dec*|² / scale²

Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders", https://arxiv.org/abs/2404.16014. The L1 penalty
shrinks only the gate, so that magnitudes stay right. The step in the gate has no gradient; the last term, in which the starred weights
are constants, teaches the gate, and never the directions of the decoder.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from saelab.dictionary import DICTIONARIES
from saelab.saes.base import Weights
from saelab.saes.penalised import L1, Fired
from saelab.values import value


@DICTIONARIES.register("gated")
class Gated(L1):
    """Features with an open gate have the codes that their magnitude says. `b_enc` is the bias of gates, `b_mag` that of magnitudes."""

    architecture: ClassVar[str] = "gated"
    layout: ClassVar[str] = "gated"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.999)

    @value
    class Config(L1.Config):
        """Settings of a gated SAE."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))

    def activation(self, pre: Float[Tensor, "row d_sae"], weights: Weights) -> Float[Tensor, "row d_sae"]:
        """Magnitudes where the gate is open. They come from the gate's pre-activations, so that the encoder multiplies once."""
        gain = self.r_mag.exp()
        offset = self.b_mag * self.scale - gain * weights.bias
        return functional.relu(gain * pre + offset) * (pre > 0)

    def penalty(self, fired: Fired) -> Float[Tensor, ""]:
        """The L1 norm of the open gates."""
        return self.norms(functional.relu(fired.pre))

    def others(self, x: Float[Tensor, "row d_in"], fired: Fired, weights: Weights) -> dict[str, Float[Tensor, ""]]:
        """The error of the reconstruction from the gates alone, by a decoder that does not learn from it."""
        written = functional.relu(fired.pre) @ weights.decoder.detach()
        return {"gate": self.relative(x.detach() - written.to(x.dtype))}

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "row width"], generator: torch.Generator) -> None:
        """As every SAE; magnitudes begin as the gates."""
        super().initialise(sample, generator)
        self.r_mag.zero_()
        self.b_mag.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """The weights under SAELens' names, for raw activations."""
        tensors = super().tensors()
        gate = tensors.pop("b_enc")
        return tensors | {"b_gate": gate, "b_mag": self.b_mag * self.scale, "r_mag": self.r_mag}

    @classmethod
    def shapes(cls, d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that a file must hold."""
        affine = super().shapes(d_in, d_sae)
        bias = affine.pop("b_enc")
        return affine | {"b_gate": bias, "b_mag": bias, "r_mag": bias}

    @torch.no_grad()
    def assign(self, tensors: Mapping[str, Tensor]) -> Self:
        """Takes over weights for raw activations, under SAELens' names."""
        self.r_mag.copy_(tensors["r_mag"])
        self.b_mag.copy_(tensors["b_mag"])
        return super().assign({**tensors, "b_enc": tensors["b_gate"]})
