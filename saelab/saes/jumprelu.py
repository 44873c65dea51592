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

But with tanh all of this concerns few pre-activations of a batch: those over their thresholds, and those in the rectangle, of which only
θ learns. Where they are at most one in sixteen, a step works on lists of them (`saelab.kernels.threshold`) in place of arrays of all. On a
GPU lists have fixed lengths, set by what the last steps had; a batch with more than fit loses those of its last rows, and the log counts
them as `left_out`. There those in the rectangle are listed where they are few; else a dense product and one pass over it are faster.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from saelab.dictionary import DICTIONARIES, Losses
from saelab.kernels.low import low
from saelab.kernels.sparse import fast, gather_dot, moved_bias, unexplained
from saelab.kernels.streams import aside, rejoin
from saelab.kernels.threshold import Listed, Marked, product_listed, with_slope
from saelab.recording import Told
from saelab.saes.base import Task, Weights, auxiliary
from saelab.saes.penalised import Fired, Penalised
from saelab.values import value

_STEEPNESS = 4.0
_LEAST = 0.1
"""Thresholds begin at so many times the root mean square of the pre-activations at least."""
_MOST = 1 / 16
"""Share of all pre-activations that lists may hold; beyond it a step is dense."""
_FEW = 1 / 400
"""Share of them that are near their thresholds up to which a GPU lists those; beyond it a dense product takes less time."""
_TIGHT, _SPARE, _SLACK = 1.15, 1.4, 2.0
"""Lists are given room for `_SPARE` times what the last steps had, once it is less than `_TIGHT` or more than `_SLACK` times that."""


@DICTIONARIES.register("jumprelu")
class JumpReLU(Penalised):
    """Pre-activations over a threshold of their own are the codes."""

    architecture: ClassVar[str] = "jumprelu"
    layout: ClassVar[str] = "jumprelu"
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    rate: ClassVar[float] = 9e-4
    recordable: ClassVar[bool] = True

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
        self.most: Tensor
        self.register_buffer("most", torch.zeros(2, dtype=torch.float64))
        self._told: tuple[Told, Told] | None = None
        self._room: tuple[float, float | None] | None = None

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
            return self.ranks.total((_STEEPNESS / self.scale * fired.codes).tanh().sum(dtype=self.scale.dtype)) / len(fired.codes)
        threshold, width = self.threshold, self._width
        fires: Tensor = _Count.apply(fired.pre, threshold, width)  # pyright: ignore[reportAssignmentType]
        total = fires.sum(dtype=self.scale.dtype)
        if self.fixed and self.listable:
            self._tell(total.detach(), ((fired.pre - threshold).abs() < width / 2).sum(), fired.pre.numel())
        return self._miss(self.ranks.mean(self.ranks.total(total)) / len(fired.pre))

    def _miss(self, l0: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The penalty of a mean number of active features."""
        return l0 if self.config.penalty == "step" else (l0 / self.config.target_l0 - 1).square()

    @property
    def listable(self) -> bool:
        """Whether a step may work on lists: few pre-activations have a gradient, and this process holds all features."""
        return self.config.penalty != "tanh" and self.config.decoder == "unit" and self.ranks.size == 1

    @property
    def fixed(self) -> bool:
        """Whether lists have fixed lengths, which are planned: where nothing may wait for the device."""
        return self.b_dec.is_cuda

    def plan(self) -> tuple[float, float | None] | None:
        """The room of lists in the next steps, as shares of all pre-activations; none for dense steps, and where those near are marked."""
        if self.fixed and self.listable:
            now = Told(self.most[0]), Told(self.most[1])
            (over, near), self._told = (told.read() for told in self._told or now), now  # asked one plan ahead: nobody waits
            self.most.zero_()
            before = self._room or (0.0, None)
            few = near <= (_FEW if before[1] is None else 2 * _FEW)  # a step is recorded anew for each change
            self._room = (_room(over, before[0]), _room(near, before[1] or 0.0) if few else None) if 0 < over <= _MOST else None
        return self._room

    @torch.no_grad()
    def _tell(self, over: Tensor, near: Tensor, numel: int) -> None:
        """Remembers, on the device, the most entries since the last plan."""
        torch.maximum(self.most, torch.stack([over, near.to(over.dtype)]) / numel, out=self.most)

    def losses(self, rows: Float[Tensor, "row width"], dead: Int[Tensor, " dead"], progress: float | Float[Tensor, ""]) -> Losses:
        """As for every penalty, from lists where there are few entries."""
        if fast(self.encoder):
            _ = low(self.encoder), low(self.decoder)  # there from the first step on: every recording keeps its copies right
        if self.listable and (not self.fixed or (self._room is not None and fast(self.encoder))):
            task = self.task(rows)
            threshold = self.threshold.detach()
            lists = self._lists(task.x, task.weights, threshold)
            if lists is not None:
                return self._listed_losses(task, threshold, *lists, dead, progress)
        return super().losses(rows, dead, progress)

    @torch.no_grad()
    def _lists(self, x: Float[Tensor, "row d_in"], weights: Weights, threshold: Tensor) -> tuple[Listed, Listed | Marked] | None:
        """The entries over their thresholds and those near them; none where they are too many, which only a CPU asks."""
        numel, room = len(x) * self.d_sae, None
        if self._room is not None:
            over, near = self._room
            room = math.ceil(over * numel), None if near is None else math.ceil(near * numel)
        over, near = product_listed(x, weights.encoder, weights.bias, threshold, self._width / 2, room)
        if room is None and int(over.total + near.total) > _MOST * numel:
            return None
        over.prepare(self.d_sae)
        if isinstance(near, Listed):
            near.prepare(self.d_sae)
        return over, near

    def _listed_losses(
        self, task: Task, threshold: Float[Tensor, " d_sae"], over: Listed, near: Listed | Marked, dead: Int[Tensor, " dead"],
        progress: float | Float[Tensor, ""],
    ) -> Losses:  # fmt: skip
        """What `Penalised.losses` gives; entries near their thresholds pull at them, which are θ = ratio · base · scale."""
        size, device, scale = len(task.x), task.x.device, self.scale
        encoder, bias, decoder = task.weights
        if task.offset is not None:
            bias = moved_bias(bias, task.offset, encoder)
        values = gather_dot(task.x, encoder, over.indices, over.starts, bias, over.values)
        mean, residual = unexplained(values, over.indices, decoder, over.starts, task.wanted, task.shift)
        with torch.no_grad():
            with aside(device, "counts"):
                steep = threshold / self._width  # 1/width · ∂θ/∂ln ratio
                fires = over.total.to(scale.dtype) / size
                price = self.price(fires, progress)
                if self.fixed:
                    self._tell(over.total, near.total, size * self.d_sae)
            along, count = near.pull(residual, decoder, task.x)
            rejoin(device, "counts")
            with aside(device, "counts"):
                active = over.counts(self.d_sae).to(scale.dtype)
                left_out = {"left_out": over.left_out + near.left_out} if self.fixed else {}
        mean = with_slope(mean, self.log_ratio, 2 / residual.numel() * along * steep * threshold)
        l0 = with_slope(fires, self.log_ratio, -count * steep / size)
        terms = {"reconstruction": mean / scale**2, "sparsity": price * self._miss(l0)}
        if len(dead):
            terms |= self.revival(task.x, residual, task.weights, dead)
        rejoin(device, "counts")
        return Losses(terms, active, task.target, residual, mean.detach() * residual.numel(), task.variance, left_out)

    def others(self, x: Float[Tensor, "row d_in"], fired: Fired, weights: Weights) -> dict[str, Float[Tensor, ""]]:
        """With tanh, how far pre-activations are below their thresholds."""
        if self.config.penalty != "tanh":
            return {}
        below = self.ranks.total(functional.relu(self.threshold - fired.pre).sum(dtype=self.scale.dtype)) / len(x)
        return {"preact": self.config.preact / self.d_in * below / self.scale}

    def revival(
        self, x: Float[Tensor, "row d_in"], residual: Float[Tensor, "row d_in"], weights: Weights, dead: Int[Tensor, " dead"]
    ) -> dict[str, Float[Tensor, ""]]:
        """The auxiliary term of TopK: a feature under its threshold gets no other gradient."""
        if self.config.auxk <= 0:
            return {}
        return {"auxk": self.config.auxk * auxiliary(x, residual, weights, dead, self.config.k_aux, self.ranks)}

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "row width"], generator: torch.Generator) -> None:
        """As every SAE; thresholds begin at a quantile of the pre-activations, halfway between two."""
        super().initialise(sample, generator)
        self.log_ratio.zero_()
        some = self.preactivations(self.centred(sample[:: max(1, len(sample) // 512), : self.d_in]), Weights(*self.weights()))
        share = min(0.5, self.config.initial_l0 * self.config.target_l0 / self.d_sae)
        numel = some.numel() * self.ranks.shards
        place = min(max(1, round((1 - share) * numel)), numel - 1)
        around = self.ranks.top(some.flatten(), numel - place + 1)[-2:]
        square = self.ranks.total(some.square().mean()) / self.ranks.shards
        least = _LEAST * square.sqrt()  # where the quantile is about 0, so would be the width of the estimate
        self.base.fill_((torch.maximum(around.mean(), least) / self.scale).item())
        self.most.copy_(torch.tensor([share, 1.0]))  # how many are near is not known yet

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


def _room(share: float, now: float) -> float:
    """The room for such a share of all pre-activations: what it is, where that will do, since a step is recorded anew for another."""
    return now if _TIGHT * share <= now <= _SLACK * share else _SPARE * share


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
