"""What sparse autoencoders share that learn by gradient descent, and the step of those that keep the largest pre-activations."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from saelab.affine import Affine, input_statistics
from saelab.dictionary import Losses, Trainable
from saelab.distributed.ranks import ALONE, Ranks
from saelab.errors import Invalid
from saelab.kernels.low import column_sums, row_norms
from saelab.kernels.segments import rows_of
from saelab.kernels.selection import topk_codes, topk_places
from saelab.kernels.sparse import fast, gather_dot, gather_rows, gather_sum, mean_square, moved_bias, unexplained
from saelab.kernels.streams import aside, rejoin
from saelab.values import from_dict, to_dict, value

FREE_NORM = 0.1
"""Norm with which decoder rows begin that may have any."""


class Weights(NamedTuple):
    """Weights for raw activations."""

    encoder: Float[Tensor, "d_sae d_in"]
    """A row a feature."""
    bias: Float[Tensor, " d_sae"]
    """The encoder's bias."""
    decoder: Float[Tensor, "d_sae d_out"]
    """A row a feature."""


class Kept(NamedTuple):
    """The features that a batch keeps: flat, or as many a row."""

    values: Float[Tensor, "*codes"]
    """Their activations."""
    indices: Int[Tensor, "*codes"]
    """Which they are."""
    starts: Int[Tensor, " row_starts"] | None = None
    """Where each row begins, where they are flat."""


class Task(NamedTuple):
    """What a batch asks of the features, in the space that the weights are trained in."""

    x: Float[Tensor, "row d_in"]
    """What the encoder reads, centred; without gradient."""
    wanted: Float[Tensor, "row d_out"]
    """What the features should write, once `shift` is taken off."""
    shift: Float[Tensor, " d_out"] | None
    """What is written without them; none where `wanted` is without it already."""
    weights: Weights
    """Weights for this space."""
    offset: Float[Tensor, " d_in"] | None
    """What x was centred by, where that is learnt."""
    target: Float[Tensor, "row d_out"]
    """Raw activations that the dictionary should write."""
    variance: Float[Tensor, ""]
    """The sum of the target's squared distances from its mean."""
    unit: Tensor | None = None
    """How much a unit of `wanted` is in raw activations; none for 1."""

    @property
    def asked(self) -> Float[Tensor, "row d_out"]:
        """What the features should write; differentiable."""
        return self.wanted if self.shift is None else self.wanted - self.shift


class SAE(Affine, Trainable):
    """Abstract: an encoder that begins as the decoder; activations are those for decoder rows of norm 1."""

    rate: ClassVar[float] = 2e-4
    """Learning rate that suits 16,384 features."""
    ranks: Ranks = ALONE
    """The processes that train it together, and the features that this one holds."""

    @value
    class Config:
        """Settings that every SAE has."""

        d_sae: int | None = None
        """Number of features; none for `expansion` times the width of the activations."""
        expansion: int = 8
        """Features for each dimension of the activations, where `d_sae` is not given."""
        decoder: Literal["unit", "free"] = "unit"
        """unit: decoder rows have norm 1. free: they may have any, and a feature counts by its activation times that norm."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config.expansion * d_in if config.d_sae is None else config.d_sae)
        self.config = config

    def weights(self) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, " d_sae"], Float[Tensor, "d_sae d_in"]]:
        """Encoder, encoder bias and decoder for raw activations, the decoder's rows of norm 1 once trained; differentiable."""
        if self.config.decoder == "unit":
            return super().weights()
        norm = self.decoder.norm(dim=1)
        return self.encoder * norm[:, None], self.b_enc * norm * self.scale, self.decoder / norm[:, None]

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "row width"], generator: torch.Generator) -> None:
        """Decoder rows random, of norm 1 or short where they are free; encoder equal to the decoder, bias the sample's mean."""
        mean, scale = input_statistics(sample[:, : self.d_in])
        norm = 1.0 if self.config.decoder == "unit" else FREE_NORM
        self.decoder.copy_(norm * functional.normalize(self.ranks.drawn(self.d_sae, self.d_in, generator), dim=1))
        self.encoder.copy_(self.decoder)
        self.b_enc.zero_()
        self.b_dec.copy_(mean / scale)
        self.scale.copy_(scale)

    def unit_rows(self) -> tuple[nn.Parameter, ...]:
        """The decoder, where its rows have norm 1."""
        return (self.decoder,) if self.config.decoder == "unit" else ()

    def task(self, rows: Float[Tensor, "row width"]) -> Task:
        """What training rows ask: to write what was read."""
        weights, offset = Weights(*self.weights()), self.offset()
        if fast(self.encoder):  # centred once, in bfloat16; and once more where the error is computed
            from saelab.kernels.gpu.gather import centred

            rows = rows.contiguous()
            x = centred(rows, offset.detach())
            with aside(x.device, "counts"):
                mean = self.ranks.mean(column_sums(x))
                variance = row_norms(x).square().sum() - mean.square().sum() / len(x)
            return Task(x, rows, offset, weights, offset, target=rows, variance=variance)
        target = rows.to(self.b_dec.dtype)
        wanted = target - offset
        x = wanted.detach()
        return Task(x, wanted, None, weights, offset, target=target, variance=self.ranks.spread(x))

    def relative(self, residual: Float[Tensor, "row d_out"]) -> Float[Tensor, ""]:
        """Mean square of a residual over the variance of what is wanted."""
        return mean_square(residual) / self.scale**2

    def default_lr(self) -> float:
        """`rate` at 16,384 features, falling with the root of their number (Gao et al. 2024, section 3)."""
        return self.rate * math.sqrt(2**14 / self.d_sae)

    def settings(self) -> dict[str, Any]:
        """What SAELens' `cfg.json` says beyond the sizes."""
        return {}

    @classmethod
    def restored(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The dictionary of a file's settings and tensors."""
        d_in, d_sae = tensors["W_enc"].shape
        return cls(d_in, from_dict(cls.Config, cls.read_config(settings, d_sae))).assign(tensors)

    @classmethod
    def read_config(cls, settings: Mapping[str, Any], d_sae: int) -> dict[str, Any]:
        """The config as JSON: the one that was saved, or the defaults where another library wrote the file; decoder rows stay as read."""
        return {**to_dict(cls.Config()), **settings.get("config", {}), "d_sae": d_sae, "decoder": "unit"}


class Selective(SAE):
    """Abstract: keeps a number of the largest pre-activations.

        loss = |x - x̂|² / scale² + auxk · |e - ê|² / Var(e)   with e = x - x̂ and ê written by the k_aux most active dead features

    The auxiliary term of Gao et al. 2024 (https://arxiv.org/abs/2406.04093) revives features that have died: it is normalised by the
    variance of the residual, so that its weight means the same at any scale, and its gradient reaches the encoder as well as the decoder.
    """

    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    recordable: ClassVar[bool] = True
    rate: ClassVar[float] = 9e-4  # 4.5 times what is published: rows of norm 1 turn slowly (docs/benchmarks/2026-11-22-quality.md)

    @value
    class Config(SAE.Config):
        """Settings of an SAE that keeps the largest pre-activations."""

        k: int = 32
        """Features that may be active on one token."""
        auxk: float = 1 / 32
        """Weight of the term that revives dead features."""
        k_aux: int | None = None
        """Dead features that explain the residual of one token; none for half the width, rounded to a power of two."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        self.config: Selective.Config = config
        if not 0 < config.k <= self.d_sae:
            raise Invalid(f"k is {config.k}; it must be between 1 and the number of features, {self.d_sae}.")

    def centred(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "row d_in"]:
        """Raw activations as rows, less the decoder's bias; in bfloat16 where that is what will be read."""
        if fast(self.encoder) and not torch.is_grad_enabled():
            from saelab.kernels.gpu.gather import centred

            return centred(x.reshape(-1, self.d_in).contiguous(), self.offset())
        return super().centred(x)

    @abstractmethod
    def select(self, x: Float[Tensor, "row d_in"], weights: Weights) -> Kept:
        """The features that centred activations keep in training."""

    def losses(self, rows: Float[Tensor, "row width"], dead: Int[Tensor, " dead"], progress: float | Float[Tensor, ""]) -> Losses:
        """Squared error over the inputs' variance, and the auxiliary term where features are dead."""
        task = self.task(rows)
        weights, offset, unit = task.weights, task.offset, task.unit
        moved = weights
        if offset is not None:
            moved = weights._replace(bias=moved_bias(weights.bias, self.ranks.entering(offset), weights.encoder))
        kept = self.select(task.x, moved)
        with aside(task.x.device, "counts"):
            active = self._active(kept)
        terms, residual, error = self.errors(task, kept, moved)
        if self.config.auxk > 0 and self.ranks.count(dead):
            terms["auxk"] = self.config.auxk * auxiliary(task.x, residual, weights, dead, self.config.k_aux, self.ranks)
        rejoin(task.x.device, "counts")
        if unit is not None:
            residual = residual * unit
            error = torch.linalg.vector_norm(residual).square()
        return Losses(terms, active, task.target, residual, error, task.variance)

    def _active(self, kept: Kept) -> Float[Tensor, " d_sae"]:
        """On how many rows each feature is active."""
        fired = (kept.values.detach() != 0).to(self.b_enc.dtype).flatten()
        return torch.zeros_like(self.b_enc, requires_grad=False).index_add_(0, kept.indices.flatten(), fired)

    def errors(
        self, task: Task, kept: Kept, weights: Weights
    ) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, "row d_out"], Float[Tensor, ""]]:
        """The terms that ask for a good reconstruction; and, without gradient, what it leaves of what is asked, and its squares' sum."""
        if self.ranks.shards == 1:
            mean, residual = unexplained(kept.values, kept.indices, weights.decoder, kept.starts, task.wanted, task.shift)
        else:
            left = task.asked - self.ranks.total(gather_sum(kept.values, kept.indices, weights.decoder, kept.starts))
            mean, residual = mean_square(left), left.detach()
        return {"reconstruction": mean / self.scale**2}, residual, mean.detach() * residual.numel()

    @classmethod
    def sized(cls, d_in: int, d_sae: int, l0: int) -> Self:
        """A dictionary of that size that aims at `l0` active features a token, other settings at their defaults."""
        return cls(d_in, cls.Config(d_sae=d_sae, k=l0))

    @classmethod
    def read_config(cls, settings: Mapping[str, Any], d_sae: int) -> dict[str, Any]:
        """The config as JSON; SAELens' k is 100 where it is not said."""
        config = super().read_config(settings, d_sae)
        k = settings.get("k", config["k"] if "config" in settings else 100)
        return {**config, "k": min(k, d_sae)}


def largest(x: Float[Tensor, "row d_in"], weights: Weights, k: int, ranks: Ranks = ALONE, signed: bool = False) -> Kept:
    """The k largest pre-activations of each row, where they are positive; of all ranks' features, those that this rank holds.

    `signed`: the k of largest magnitude, of either sign.
    """
    encoder, bias, _ = weights
    allowed = (lambda values: values) if signed else functional.relu
    if ranks.shards == 1:
        values, indices = topk_codes(x, encoder, bias, k, signed)
        return Kept(allowed(values), indices)
    with torch.no_grad():
        values, indices = topk_codes(x, encoder, bias, min(k, len(encoder)), signed)
        known, indices, starts = ranks.largest(allowed(values), indices, k)
    return Kept(allowed(gather_dot(x, encoder, indices, starts, bias, known)), indices, starts)


def auxiliary(
    x: Float[Tensor, "row d_in"],
    residual: Float[Tensor, "row d_out"],
    weights: Weights,
    dead: Int[Tensor, " dead"],
    k: int | None,
    ranks: Ranks = ALONE,
) -> Float[Tensor, ""]:
    """How badly the k dead features that come closest to being active explain what the others leave: 1 if not at all.

    Its gradient reaches their encoder and decoder rows, and nothing else. Without k they are half the width, rounded to a power of two.
    Entries of `dead` below 0 stand for no feature.
    """
    x, residual, count = x.detach(), residual.detach(), ranks.count(dead)
    if not len(dead):  # only other ranks have some; this one takes part with none
        dead = dead.new_full((1,), -1)
    most, d_sae = min(k or 2 ** round(math.log2(max(x.shape[1] / 2, 1))), count), len(weights.encoder)
    closed = torch.where(dead < 0, -torch.inf, weights.bias[dead.clamp(min=0)])
    named = dead.masked_fill(dead < 0, d_sae)[:, None]  # entries that stand for no feature add to none
    encoder, decoder = gather_rows(weights.encoder, named), gather_rows(weights.decoder, named)
    active = functional.relu(functional.linear(x, encoder, closed))  # dense: most of the dead take part, and they are few
    if most < count:
        active = active * _chosen(active.detach(), most, ranks)
    missing = mean_square(ranks.total((active @ decoder).to(residual.dtype)) - residual)
    variance = ranks.mean(ranks.spread(residual)) / residual.numel()
    return missing / variance.clamp(min=torch.finfo(variance.dtype).tiny)


def _chosen(active: Float[Tensor, "row n"], k: int, ranks: Ranks) -> Bool[Tensor, "row n"]:
    """Which are among the k largest of their rows, over all ranks with other features."""
    indices = topk_places(active, min(k, active.shape[1]))
    rows = torch.arange(len(active), device=active.device)[:, None].expand_as(indices)
    if ranks.shards > 1:
        _, indices, starts = ranks.largest(active.gather(1, indices), indices, k)
        assert starts is not None, "each rank holds another number of them"
        rows = rows_of(starts, len(indices))
    return torch.zeros_like(active, dtype=torch.bool).index_put_((rows, indices), torch.ones((), dtype=torch.bool, device=active.device))
