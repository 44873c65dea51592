"""JumpReLU sparse autoencoder.

    pre = (x - b_dec) encoderᵀ + b_enc       z = pre · [pre > θ]       x̂ = z decoder + b_dec
    loss = |x - x̂|² / scale² + c · (L0 / target - 1)²

Rajamanoharan et al. 2024, "Jumping ahead", https://arxiv.org/abs/2407.14435; the quadratic penalty is the one of its section 5. The jump
has no gradient in θ, so a straight-through estimate stands in for it: a rectangle of a given bandwidth around θ, taken on the
pre-activations, so that a feature just below its threshold pulls as much as one just above.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from saelab.dictionary import DICTIONARIES, Codes, Losses
from saelab.errors import Invalid
from saelab.saes.base import SAE
from saelab.values import value


@DICTIONARIES.register("jumprelu")
class JumpReLU(SAE):
    """Pre-activations over a threshold of their own are the codes."""

    architecture: ClassVar[str] = "jumprelu"
    layout: ClassVar[str] = "jumprelu"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.999)

    @value
    class Config(SAE.Config):
        """Settings of a JumpReLU SAE."""

        target_l0: float = 32.0
        """Mean number of active features a token that training aims at."""
        sparsity: float = 1.0
        """Weight of the penalty for missing `target_l0`."""
        warmup: float = 0.2
        """Share of the run over which that weight rises from 0."""
        initial_l0: float = 4.0
        """Thresholds start where the sample has so many times `target_l0` active features a token."""
        bandwidth: float = 0.5
        """Width of the straight-through estimate, in units of the thresholds at the start."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        self.config: JumpReLU.Config = config
        if not 0 < config.target_l0 < self.d_sae:
            raise Invalid(f"target_l0 is {config.target_l0}; it must lie between 0 and the number of features, {self.d_sae}.")
        self.log_ratio = nn.Parameter(torch.zeros(self.d_sae))
        self.base: Tensor
        self.register_buffer("base", torch.ones(self.d_sae))

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """θ for raw activations: positive, since it is learnt as the logarithm of its ratio to where it began."""
        return self.base * self.log_ratio.exp() * self.scale

    def _pre(self, rows: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_sae"]:
        """Pre-activations, always in full precision: bfloat16 would round them by more than the bandwidth."""
        encoder, bias, _ = self.weights()
        with torch.autocast(rows.device.type, enabled=False):
            return functional.linear(rows, encoder, bias)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The pre-activations that exceed their thresholds."""
        pre = self._pre(self.centred(x))
        return Codes.from_dense((pre * (pre > self.threshold)).view(*x.shape[:-1], self.d_sae))

    def losses(self, rows: Float[Tensor, "row width"], dead: Int[Tensor, " dead"], progress: float) -> Losses:
        """Squared error over the inputs' variance, and the penalty for missing the target L0."""
        x, width = self.centred(rows), self.config.bandwidth * self.base * self.scale
        pre, threshold = self._pre(x), self.threshold
        z = _Jump.apply(pre, threshold, width)
        residual = x - (z @ self.decoder).to(x.dtype)  # pyright: ignore[reportOptionalOperand]
        l0 = _Count.apply(pre, threshold, width).sum() / len(x)  # pyright: ignore[reportOptionalMemberAccess]
        weight = self.config.sparsity * min(1.0, progress / self.config.warmup if self.config.warmup else 1.0)
        return Losses(
            terms={
                "reconstruction": (residual / self.scale).square().mean(),
                "sparsity": weight * (l0 / self.config.target_l0 - 1).square(),
            },
            active=(pre.detach() > threshold.detach()).sum(0).to(x.dtype),
            reconstruction=(rows.to(x.dtype) - residual).detach(),
            target=rows.to(x.dtype),
        )

    @classmethod
    def sized(cls, d_in: int, d_sae: int, l0: int) -> Self:
        """A dictionary of that size that aims at `l0` active features a token, other settings at their defaults."""
        return cls(d_in, cls.Config(d_sae=d_sae, target_l0=float(l0)))

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "row d_in"], generator: torch.Generator) -> None:
        """As every SAE; thresholds begin at a quantile of the pre-activations."""
        super().initialise(sample, generator)
        self.log_ratio.zero_()
        some = self._pre(self.centred(sample[:: max(1, len(sample) // 512)]))
        share = min(0.5, self.config.initial_l0 * self.config.target_l0 / self.d_sae)
        place = max(1, round((1 - share) * some.numel()))
        self.base.fill_((some.flatten().kthvalue(place).values / self.scale).clamp(min=1e-3).item())

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

    @classmethod
    def read_config(cls, settings: Mapping[str, Any], d_sae: int) -> dict[str, Any]:
        """The config as JSON; the target is nominal where another library wrote the file."""
        config = super().read_config(settings, d_sae)
        return {**config, "target_l0": min(config["target_l0"], d_sae / 2)}


class _Jump(torch.autograd.Function):
    """`pre · [pre > θ]`; the gradient in θ is -θ/width within half the width around it, on both sides."""

    @staticmethod
    def forward(ctx: FunctionCtx, pre: Tensor, threshold: Tensor, width: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold, width)
        return pre * (pre > threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, threshold, width = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        near = (pre - threshold).abs() < width / 2
        return grad * (pre > threshold), -(grad * near).sum(0) * threshold / width, None


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
