"""BatchTopK sparse autoencoder.

    in training    z = relu(pre) at the k·rows largest places of the whole batch, else 0      pre = (x - b_dec) encoderᵀ + b_enc
    afterwards     z = pre · [pre > θ], one θ for all features                                x̂ = z decoder + b_dec

Bussmann, Leask, Nanda 2024, "BatchTopK sparse autoencoders", https://arxiv.org/abs/2412.06410. A token may have more than k features if
others have fewer. θ follows the smallest activation that training batches keep; with it the dictionary is a JumpReLU SAE, and is saved as
one, as SAELens does.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saelab.dictionary import DICTIONARIES, Codes
from saelab.kernels.selection import batch_topk_codes
from saelab.kernels.sparse import gather_dot
from saelab.kernels.streams import aside
from saelab.saes.base import Kept, Selective, Weights
from saelab.values import value

_FOLLOW = 0.05
"""How far the threshold moves at each step towards the smallest activation that the batch kept."""
_FIRST_ROWS = 4096
"""Rows of the sample from which the threshold is set before the first step."""


@DICTIONARIES.register("batchtopk")
class BatchTopK(Selective):
    """In training the largest pre-activations of the batch are kept, k a token on average; afterwards those over a threshold."""

    architecture: ClassVar[str] = "batchtopk"
    layout: ClassVar[str] = "jumprelu"

    @value
    class Config(Selective.Config):
        """Settings of a BatchTopK SAE; `k` is the mean number of active features."""

        auxk: float = 1 / 4
        """Weight of the term that revives dead features; with the published 1/32 some stay dead where k is 64 (docs/decisions/0006)."""

    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__(d_in, config)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.zeros(self.d_sae))  # in units of `scale`; trained as one for all
        self._smallest: Tensor | None = None

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The pre-activations that exceed the threshold."""
        encoder, bias, _ = self.weights()
        pre = functional.linear(self.centred(x), encoder, bias).to(encoder.dtype)
        return Codes.from_dense((pre * (pre > self.thresholds())).view(*x.shape[:-1], self.d_sae))

    def thresholds(self) -> Float[Tensor, " d_sae"]:
        """The threshold of each feature for raw activations."""
        return self.threshold * self.scale

    def select(self, x: Float[Tensor, "row d_in"], weights: Weights) -> Kept:
        """The largest pre-activations of the batch, k a row on average."""
        encoder, bias, k = weights.encoder, weights.bias, self.config.k
        if self.ranks.size == 1:
            values, indices, starts = batch_topk_codes(x, encoder, bias, k * len(x))
        else:
            with torch.no_grad():  # all that may be kept are among so many
                found = batch_topk_codes(x, encoder, bias, min(k * self.ranks.rows, len(encoder)) * len(x))
                known, indices, starts = self.ranks.batch_largest(functional.relu(found[0]), *found[1:], k)
            values = gather_dot(x, encoder, indices, starts, bias, known)
        values = functional.relu(values)
        with aside(x.device, "counts"):
            self._smallest = self.ranks.least(values.detach())
        return Kept(values, indices, starts)

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "row width"], generator: torch.Generator) -> None:
        """As every SAE; the threshold halfway between the smallest activation that the sample would keep and the largest that it drops."""
        super().initialise(sample, generator)
        self.start_threshold(sample)

    @torch.no_grad()
    def start_threshold(self, sample: Float[Tensor, "row width"]) -> None:
        """Sets the threshold from training rows."""
        task = self.task(sample[:_FIRST_ROWS])
        pre = functional.linear(task.x, task.weights.encoder, task.weights.bias).flatten()
        kept = self.config.k * min(len(sample), _FIRST_ROWS)
        around = self.ranks.top(pre, kept + 1)[-2:]
        self.threshold.copy_((around.mean() / self.scale).clamp(min=0.0))

    @torch.no_grad()
    def after_step(self) -> None:
        """The threshold follows."""
        if self._smallest is not None:
            self.threshold.lerp_(self._smallest / self.scale, _FOLLOW)

    def tensors(self) -> dict[str, Tensor]:
        """The weights under SAELens' names, for raw activations."""
        return {**super().tensors(), "threshold": self.thresholds()}

    @classmethod
    def shapes(cls, d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that a file must hold."""
        return {**super().shapes(d_in, d_sae), "threshold": (d_sae,)}

    @torch.no_grad()
    def assign(self, tensors: Mapping[str, Tensor]) -> Self:
        """Takes over weights for raw activations, under SAELens' names."""
        self.threshold.copy_(tensors["threshold"])
        return super().assign(tensors)
