"""TopK sparse autoencoder.

    z = TopK(relu((x - b_dec) encoderᵀ + b_enc))        x̂ = z decoder + b_dec
    loss = |x - x̂|² / scale² + auxk · |e - ê|² / Var(e)   with e = x - x̂ and ê written by the k_aux most active dead features

Gao et al. 2024, "Scaling and evaluating sparse autoencoders", https://arxiv.org/abs/2406.04093. The auxiliary term revives features that
have died: it is normalised by the variance of the residual, so that its weight means the same at any scale, and its gradient reaches the
encoder as well as the decoder.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saelab.affine import Affine, input_statistics
from saelab.dictionary import DICTIONARIES, Codes, Losses, Trainable
from saelab.errors import Invalid
from saelab.kernels.sparse import gather_dot, gather_sum, topk_indices
from saelab.values import value

_FREE_NORM = 0.1


@DICTIONARIES.register("topk")
class TopK(Affine, Trainable):
    """The k largest pre-activations of each token are its codes."""

    architecture: ClassVar[str] = "topk"
    layout: ClassVar[str] = "topk"

    @value
    class Config:
        """Settings of a TopK SAE."""

        d_sae: int | None = None
        """Number of features; none for `expansion` times the width of the activations."""
        expansion: int = 8
        """Features for each dimension of the activations, where `d_sae` is not given."""
        k: int = 32
        """Features that may be active on one token."""
        auxk: float = 1 / 32
        """Weight of the term that revives dead features."""
        k_aux: int | None = None
        """Dead features that explain the residual of one token; none for half the width, rounded to a power of two."""
        decoder: Literal["unit", "free"] = "unit"
        """unit: decoder rows have norm 1. free: they may have any, and features are ranked by activation times norm."""

    def __init__(self, d_in: int, config: Config) -> None:
        d_sae = config.expansion * d_in if config.d_sae is None else config.d_sae
        if not 0 < config.k <= d_sae:
            raise Invalid(f"k is {config.k}; it must be between 1 and the number of features, {d_sae}.")
        super().__init__(d_in, d_sae)
        self.config = config
        self.k_aux = config.k_aux or 2 ** round(math.log2(max(d_in / 2, 1)))

    def weights(self) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, " d_sae"], Float[Tensor, "d_sae d_in"]]:
        """Encoder, encoder bias and decoder for raw activations, the decoder's rows of norm 1 once trained; differentiable."""
        if self.config.decoder == "unit":
            return super().weights()
        norm = self.decoder.norm(dim=1)
        return self.encoder * norm[:, None], self.b_enc * norm * self.scale, self.decoder / norm[:, None]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The k largest pre-activations of each token, where they are positive."""
        encoder, bias, _ = self.weights()
        indices, values = self._codes(self.centred(x), encoder, bias)
        shape = (*x.shape[:-1], self.config.k)
        return Codes(indices=indices.view(shape), values=values.view(shape), d_sae=self.d_sae)

    def _codes(self, rows: Tensor, encoder: Tensor, bias: Tensor) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
        indices = topk_indices(rows, encoder, bias, self.config.k)
        return indices, functional.relu(gather_dot(rows, encoder, indices) + bias[indices])

    def losses(self, x: Float[Tensor, "row d_in"], dead: Int[Tensor, " dead"], progress: float) -> Losses:
        """Squared error over the inputs' variance, and the auxiliary term where features are dead."""
        encoder, bias, decoder = self.weights()
        rows = self.centred(x)
        indices, values = self._codes(rows, encoder, bias)
        residual = rows - gather_sum(values, indices, decoder)
        terms = {"reconstruction": (residual / self.scale).square().mean()}
        if len(dead) and self.config.auxk > 0:
            terms["auxk"] = self.config.auxk * self._auxiliary(rows.detach(), residual.detach(), encoder, bias, decoder, dead)
        fired = (values.detach() > 0).to(rows.dtype).flatten()
        active = torch.zeros_like(self.b_enc, requires_grad=False).index_add_(0, indices.flatten(), fired)
        return Losses(terms=terms, active=active, reconstruction=(x.to(rows.dtype) - residual).detach())

    def _auxiliary(
        self, rows: Tensor, residual: Tensor, encoder: Tensor, bias: Tensor, decoder: Tensor, dead: Int[Tensor, " dead"]
    ) -> Float[Tensor, ""]:
        """How badly the dead features that come closest to being active explain the residual: 1 if not at all."""
        encoder, bias, decoder = encoder[dead], bias[dead], decoder[dead]
        indices = topk_indices(rows, encoder, bias, min(self.k_aux, len(dead)))
        values = functional.relu(gather_dot(rows, encoder, indices) + bias[indices])
        missing = (gather_sum(values, indices, decoder) - residual).square().mean()
        variance = (residual - residual.mean(0)).square().mean()
        return missing / variance.clamp(min=torch.finfo(variance.dtype).tiny)

    @classmethod
    def sized(cls, d_in: int, d_sae: int, l0: int) -> Self:
        """A dictionary of that size that aims at `l0` active features a token, other settings at their defaults."""
        return cls(d_in, cls.Config(d_sae=d_sae, k=l0))

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "row d_in"], generator: torch.Generator) -> None:
        """Decoder rows random of norm 1, encoder equal to the decoder, bias the sample's mean."""
        mean, scale = input_statistics(sample)
        rows = functional.normalize(torch.randn(self.d_sae, self.d_in, generator=generator), dim=1)
        self.decoder.copy_(rows if self.config.decoder == "unit" else rows * _FREE_NORM)
        self.encoder.copy_(self.decoder)
        self.b_enc.zero_()
        self.b_dec.copy_(mean / scale)
        self.scale.copy_(scale)

    @torch.no_grad()
    def before_step(self) -> None:
        """Takes the part along the decoder's rows out of their gradient: a step must turn them, not lengthen them."""
        if self.config.decoder == "unit" and self.decoder.grad is not None:
            along = (self.decoder.grad * self.decoder).sum(1, keepdim=True)
            self.decoder.grad.addcmul_(along, self.decoder, value=-1.0)

    @torch.no_grad()
    def after_step(self) -> None:
        """Brings the decoder's rows back to norm 1."""
        if self.config.decoder == "unit":
            self.decoder.div_(self.decoder.norm(dim=1, keepdim=True))

    def default_lr(self) -> float:
        """2e-4 at 16,384 features, falling with the root of their number (Gao et al. 2024, section 3)."""
        return 2e-4 * math.sqrt(2**14 / self.d_sae)

    def settings(self) -> dict[str, Any]:
        """What SAELens' `cfg.json` says beyond the sizes."""
        return {"k": self.config.k, "rescale_acts_by_decoder_norm": False}

    @classmethod
    def restored(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The dictionary of a file's settings and tensors."""
        d_sae, d_in = tensors["W_dec"].shape
        return cls(d_in, cls.Config(d_sae=d_sae, k=settings.get("k", 100))).assign(tensors)
