"""JumpReLU sparse autoencoder.

    pre = (x - b_dec) encoderᵀ + b_enc       z = pre · [pre > θ]       x̂ = z decoder + b_dec
    loss = |x - x̂|² / scale² + weight · penalty + the auxiliary term of TopK (no other gradient reaches a feature under its threshold)

    penalty   target   (L0 / target - 1)²                          Rajamanoharan et al. 2024, "Jumping ahead", section 5 and [1]
              step     L0                                          the same, section 3
              tanh     Σ tanh(4 zᵢ |decoderᵢ| / scale), and beside it   preact · Σ relu(θᵢ - preᵢ) |decoderᵢ| / (scale d_in)      [2]

[1] https://arxiv.org/abs/2407.14435. [2] Conerly et al. 2025, "Dictionary learning optimization techniques",
https://transformer-circuits.pub/2025/january-update: its last term brings back features that never reach their threshold.

The jump has no gradient in θ, so a straight-through estimate stands in for it: a rectangle K of a given width around θ, taken on the
pre-activations, so that a feature just below its threshold pulls as much as one just above:

    ∂z/∂θ = -θ/width · K       ∂[pre > θ]/∂θ = -1/width · K       and with tanh, as published, ∂z/∂pre = [pre > θ] + θ/width · K
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from saelab.dictionary import DICTIONARIES
from saelab.saes.base import Weights, auxiliary
from saelab.saes.penalised import Fired, Penalised
from saelab.values import value

_STEEPNESS = 4.0
_LEAST = 0.1
"""Thresholds begin at so many times the root mean square of the pre-activations at least."""


@DICTIONARIES.register("jumprelu")
class JumpReLU(Penalised):
    """Pre-activations over a threshold of their own are the codes."""

    architecture: ClassVar[str] = "jumprelu"
    layout: ClassVar[str] = "jumprelu"
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    rate: ClassVar[float] = 9e-4

    @value
    class Config(Penalised.Config):
        """Settings of a JumpReLU SAE."""

        penalty: Literal["target", "step", "tanh"] = "target"
        """target: for missing `target_l0`, on either side. step: for every active feature. tanh: the same, less for weak ones."""
        sparsity: float | None = None
        """Weight of the penalty; none for 1 with target, and to seek the weight that leads to `target_l0` with the others, where it is what
        an active feature must explain, as a share of the inputs' variance."""
        warmup: float = 0.2
        """Share of the run over which that weight rises from 0; published with tanh: 1."""
        initial_l0: float = 4.0
        """Thresholds start where the sample has so many times `target_l0` active features a token."""
        bandwidth: float = 0.5
        """Width of the straight-through estimate, in units of the thresholds at the start."""
        preact: float = 3e-6
        """Weight with which tanh pulls pre-activations up to their thresholds."""
        auxk: float = 1 / 32
        """Weight of the term that revives dead features, as in TopK."""
        k_aux: int | None = None
        """Dead features that explain the residual of one token; none for half the width, rounded to a power of two."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        self.log_ratio = nn.Parameter(torch.zeros(self.d_sae))
        self.base: Tensor
        self.register_buffer("base", torch.ones(self.d_sae))

    @property
    def weight(self) -> float | None:
        """The config's `sparsity`, or 1 with target."""
        return 1.0 if self.config.penalty == "target" and self.config.sparsity is None else self.config.sparsity

    @property
    def start(self) -> float:
        """Low: a hundredth of the variance that a feature explains where `target_l0` of them share it."""
        return 0.01 / self.config.target_l0

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """θ for raw activations: positive, since it is learnt as the logarithm of its ratio to where it began."""
        return self.base * self.log_ratio.exp() * self.scale

    @property
    def _width(self) -> Float[Tensor, " d_sae"]:
        return self.config.bandwidth * self.base * self.scale

    def activation(self, pre: Float[Tensor, "row d_sae"], weights: Weights) -> Float[Tensor, "row d_sae"]:
        """The pre-activations that exceed their thresholds."""
        return _Jump.apply(pre, self.threshold, self._width, self.config.penalty == "tanh")  # pyright: ignore[reportReturnType]

    def penalty(self, fired: Fired) -> Float[Tensor, ""]:
        """What the config says."""
        if self.config.penalty == "tanh":
            return (_STEEPNESS / self.scale * fired.codes).tanh().sum(dtype=self.scale.dtype) / len(fired.codes)
        l0 = _Count.apply(fired.pre, self.threshold, self._width).sum(dtype=self.scale.dtype) / len(fired.pre)  # pyright: ignore[reportOptionalMemberAccess]
        return l0 if self.config.penalty == "step" else (l0 / self.config.target_l0 - 1).square()

    def others(self, x: Float[Tensor, "row d_in"], fired: Fired, weights: Weights) -> dict[str, Float[Tensor, ""]]:
        """With tanh, how far pre-activations are below their thresholds."""
        if self.config.penalty != "tanh":
            return {}
        below = functional.relu(self.threshold - fired.pre).sum(dtype=self.scale.dtype) / len(x)
        return {"preact": self.config.preact / self.d_in * below / self.scale}

    def revival(
        self, x: Float[Tensor, "row d_in"], residual: Float[Tensor, "row d_in"], weights: Weights, dead: Int[Tensor, " dead"]
    ) -> dict[str, Float[Tensor, ""]]:
        """The auxiliary term of TopK: a feature under its threshold gets no other gradient."""
        return {"auxk": self.config.auxk * auxiliary(x, residual, weights, dead, self.config.k_aux)} if self.config.auxk > 0 else {}

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "row width"], generator: torch.Generator) -> None:
        """As every SAE; thresholds begin at a quantile of the pre-activations, halfway between two."""
        super().initialise(sample, generator)
        self.log_ratio.zero_()
        some = self.preactivations(self.centred(sample[:: max(1, len(sample) // 512), : self.d_in]), Weights(*self.weights()))
        share = min(0.5, self.config.initial_l0 * self.config.target_l0 / self.d_sae)
        place = min(max(1, round((1 - share) * some.numel())), some.numel() - 1)
        around = [some.flatten().kthvalue(number).values for number in (place, place + 1)]
        least = _LEAST * some.square().mean().sqrt()  # where the quantile is about 0, so would be the width of the estimate
        self.base.fill_((torch.maximum(torch.stack(around).mean(), least) / self.scale).item())

    def tensors(self) -> dict[str, Tensor]:
        """The weights under SAELens' names, for raw activations."""
        return {**super().tensors(), "threshold": self.threshold}

    @classmethod
    def shapes(cls, d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that a file must hold."""
        return {**super().shapes(d_in, d_sae), "threshold": (d_sae,)}

    @torch.no_grad()
    def assign(self, tensors: Mapping[str, Tensor]) -> Self:
        """Takes over weights for raw activations, under SAELens' names."""
        self.log_ratio.zero_()
        self.base.copy_(tensors["threshold"].clamp(min=0.0))
        return super().assign(tensors)


class _Jump(torch.autograd.Function):
    """`pre · [pre > θ]`; the gradient in θ is -θ/width within half the width around it, on both sides, and the opposite in pre if asked."""

    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor, width: Tensor, through: bool) -> Tensor:
        ctx.save_for_backward(pre, threshold, width)
        ctx.through = through  # pyright: ignore[reportAttributeAccessIssue]
        return pre * (pre > threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold, width = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        slope = threshold / width
        pull = grad * ((pre - threshold).abs() < width / 2)
        direct = grad * (pre > threshold)
        return torch.addcmul(direct, pull, slope) if ctx.through else direct, -pull.sum(0) * slope, None, None  # pyright: ignore[reportAttributeAccessIssue]


class _Count(torch.autograd.Function):
    """`[pre > θ]`; the gradient in θ is -1/width within half the width around it, on both sides."""

    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor, width: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold, width)
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold, width = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        near = (pre - threshold).abs() < width / 2
        return None, -(grad * near).sum(0) / width, None
