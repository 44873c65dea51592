"""What sparse autoencoders share whose codes are sparse because the loss has a price on activity, and how that price is found.

    loss = |x - x̂|² / scale² + weight · penalty        x̂ = z decoder + b_dec

Either the weight is given, as in the papers, or it is sought while training runs, so that `target_l0` features are active on a token. The
search is a controller with a proportional and an integral part: with u = clip(ln(L0 / target_l0), ±1) and progress t

    ln weight = ln start + u + clip(20 ∫ u dt, ±4)        from the end of the warm-up on

The proportional part answers at once, the integral one ends the difference; its limits keep it from running away while features are slow
to follow. Both live on the device, and in the checkpoint.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saelab.dictionary import Codes, Losses
from saelab.errors import Invalid
from saelab.saes.base import SAE, Weights
from saelab.values import value

_GAIN = 20.0
_LIMIT = 4.0


class Fired(NamedTuple):
    """What the encoder makes of a batch."""

    pre: Float[Tensor, "row d_sae"]
    """Pre-activations."""
    codes: Float[Tensor, "row d_sae"]
    """Activations."""


class Penalised(SAE):
    """Abstract: a penalty keeps the number of active features low. Codes are dense in training."""

    @value
    class Config(SAE.Config):
        """Settings of an SAE with a penalty."""

        target_l0: float = 32.0
        """Mean number of active features a token that training aims at where the weight of the penalty is not given."""
        warmup: float = 0.05
        """Share of the run over which the weight rises from 0."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        if not 0 < config.target_l0 < self.d_sae:
            raise Invalid(f"target_l0 is {config.target_l0}; it must lie between 0 and the number of features, {self.d_sae}.")
        self.sought: Tensor
        self.register_buffer("sought", torch.zeros(()))  # the integral part
        self.until: Tensor
        self.register_buffer("until", torch.zeros(()))  # the progress that it reaches to
        self._now: tuple[Tensor, Tensor] | None = None

    @property
    @abstractmethod
    def weight(self) -> float | None:
        """Weight of the penalty; none where it is sought."""

    @property
    @abstractmethod
    def start(self) -> float:
        """Where the search for it begins."""

    def preactivations(self, x: Float[Tensor, "row d_in"], weights: Weights) -> Float[Tensor, "row d_sae"]:
        """Pre-activations of centred activations."""
        return functional.linear(x, weights.encoder, weights.bias)

    @abstractmethod
    def activation(self, pre: Float[Tensor, "row d_sae"], weights: Weights) -> Float[Tensor, "row d_sae"]:
        """Codes of pre-activations."""

    @abstractmethod
    def penalty(self, fired: Fired) -> Float[Tensor, ""]:
        """What activity costs, before it is weighted."""

    def others(self, x: Float[Tensor, "row d_in"], fired: Fired, weights: Weights) -> dict[str, Float[Tensor, ""]]:
        """Further terms of the loss."""
        return {}

    def revival(
        self, x: Float[Tensor, "row d_in"], residual: Float[Tensor, "row d_in"], weights: Weights, dead: Int[Tensor, " dead"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Terms that bring dead features back; called where there are some."""
        return {}

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The activations that are not zero."""
        weights = Weights(*self.weights())
        codes = self.activation(self.preactivations(self.centred(x), weights), weights)
        return Codes.from_dense(codes.to(self.b_dec.dtype).view(*x.shape[:-1], self.d_sae))

    def losses(self, rows: Float[Tensor, "row width"], dead: Int[Tensor, " dead"], progress: float | Float[Tensor, ""]) -> Losses:
        """Squared error over the inputs' variance, the penalty, and whatever the architecture adds."""
        weights, x = Weights(*self.weights()), self.centred(rows)
        pre = self.preactivations(self.ranks.entering(x), weights)
        fired = Fired(pre, self.activation(pre, weights))
        residual = x - self.ranks.total((fired.codes @ weights.decoder).to(x.dtype))
        active = (fired.codes.detach() != 0).sum(0).to(x.dtype)
        l0 = self.ranks.mean(self.ranks.total(active.sum())) / len(x)
        terms = {
            "reconstruction": self.relative(residual),
            "sparsity": self.price(l0, progress) * self.penalty(fired),
        }
        terms |= self.others(x, fired, weights) | (self.revival(x, residual, weights, dead) if self.ranks.count(dead) else {})
        left = residual.detach()
        return Losses(terms, active, rows.to(x.dtype), left, torch.linalg.vector_norm(left).square(), self.ranks.spread(x.detach()))

    def price(self, l0: Float[Tensor, ""], progress: float | Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The weight of the penalty at a point of the run where `l0` features are active on a token."""
        now = torch.as_tensor(progress, dtype=torch.float64, device=self.scale.device)
        warmup = self.config.warmup
        ramp = (now / warmup).clamp(0.0, 1.0) if warmup > 0 else torch.ones_like(now)
        if self.weight is not None:
            return (self.weight * ramp).to(l0.dtype)
        off = (l0 / self.config.target_l0).log().clamp(-1.0, 1.0)
        self._now = off, now
        return (self.start * ramp).to(l0.dtype) * (off + self.sought).exp()

    @torch.no_grad()
    def after_step(self) -> None:
        """The search for the weight goes on."""
        if self._now is not None:
            off, now = self._now
            way = now.to(self.until.dtype)
            self.sought.add_(_GAIN * off * (way - self.until) * (now > self.config.warmup)).clamp_(-_LIMIT, _LIMIT)
            self.until.copy_(way)

    @classmethod
    def sized(cls, d_in: int, d_sae: int, l0: int) -> Self:
        """A dictionary of that size that aims at `l0` active features a token, other settings at their defaults."""
        return cls(d_in, cls.Config(d_sae=d_sae, target_l0=float(l0)))

    @classmethod
    def read_config(cls, settings: Mapping[str, Any], d_sae: int) -> dict[str, Any]:
        """The config as JSON; the target is nominal where another library wrote the file."""
        config = super().read_config(settings, d_sae)
        return {**config, "target_l0": min(config["target_l0"], d_sae / 2)}


class L1(Penalised):
    """Abstract: the penalty is the sum of activations, in units of the inputs' root mean square norm."""

    @value
    class Config(Penalised.Config):
        """Settings of an SAE with an L1 penalty."""

        l1: float | None = None
        """Weight of the penalty: to be active, a feature must explain about half of it, as a share of the inputs' norm; none to seek the
        weight that leads to `target_l0`."""

    @property
    def weight(self) -> float | None:
        """The config's `l1`."""
        return self.config.l1

    @property
    def start(self) -> float:
        """Low: a twentieth of what a feature explains where `target_l0` of them share the norm."""
        return 0.05 / math.sqrt(self.config.target_l0)

    def norms(self, activations: Float[Tensor, "row d_sae"]) -> Float[Tensor, ""]:
        """Mean over rows of the L1 norm, in units of the inputs' norm. Decoder rows have norm 1 here."""
        return activations.sum(1, dtype=self.scale.dtype).mean() / (self.scale * math.sqrt(self.d_in))
