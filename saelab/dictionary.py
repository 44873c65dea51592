"""Dictionaries: anything that writes activations as sums of directions.

An SAE, the neurons, the principal components and random directions share one interface: `encode` an activation to sparse `Codes`, `decode`
codes back, and `directions`, a row a feature. Codes may be negative: nothing may assume `z >= 0`.

A saved dictionary is a folder that SAELens reads (`cfg.json`, `sae_weights.safetensors`); see docs/formats.md. The scale of the training
inputs is folded into the weights at every save, so that a file needs nothing else.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saelab.registry import Registry
from saelab.values import value


@value
class Provenance:
    """Where a dictionary's activations come from; saved with it, so that every later reader treats tokens as training did."""

    model: str
    """Id of the subject."""
    hook: str
    """Hook that it reads, in TransformerLens names."""
    context: int
    """Tokens in a window."""
    prepend_bos: bool
    """Whether windows began with the beginning-of-sequence token."""
    skip_first: int
    """Positions at the start of every window that do not count: the first one is an attention sink."""
    special_ids: tuple[int, ...]
    """Token ids that do not count."""


@dataclass(frozen=True)
class Codes:
    """Feature activations of some tokens, sparse.

    A slot that is not used holds value 0 (at any index). An index occurs at most once a token among the used slots.
    """

    indices: Int[Tensor, "*batch k"]
    """Which features are active."""
    values: Float[Tensor, "*batch k"]
    """Their activations; may be negative."""
    d_sae: int
    """Number of features of the dictionary."""

    def dense(self) -> Float[Tensor, "*batch {self.d_sae}"]:
        """The same as a dense array."""
        zeros = self.values.new_zeros(*self.values.shape[:-1], self.d_sae)
        return zeros.scatter_add(-1, self.indices, self.values)

    def l0(self) -> Float[Tensor, "*batch"]:
        """Number of active features of each token."""
        return (self.values != 0).sum(-1).to(self.values.dtype)

    @classmethod
    def from_dense(cls, z: Float[Tensor, "*batch d_sae"]) -> "Codes":
        """Codes of a dense array, with as many slots as the fullest token needs (at least one)."""
        active = z != 0
        slots = max(1, int(active.sum(-1).max())) if z.numel() else 1
        indices = active.to(torch.int8).topk(min(slots, z.shape[-1]), dim=-1, sorted=False).indices
        return cls(indices=indices, values=z.gather(-1, indices), d_sae=z.shape[-1])


class Dictionary(nn.Module, ABC):
    """Abstract: writes activations as sums of directions. A subclass is final and registers itself in `DICTIONARIES`."""

    architecture: ClassVar[str]
    """The name under which the class is registered."""
    d_in: int
    """Width of the activations."""
    d_sae: int
    """Number of features."""
    provenance: Provenance | None = None
    """Where its activations come from; none for one that was never given a subject."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """Feature activations of raw activations."""

    @abstractmethod
    def decode(self, codes: Codes) -> Float[Tensor, "*batch d_in"]:
        """The activations that the codes stand for."""

    @property
    @abstractmethod
    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each feature adds to the activation: the decoder's rows."""


class Trainable(Dictionary):
    """Abstract: a dictionary that learns by gradient descent. Weights live in the units of the scaled inputs until `fold()`."""

    @abstractmethod
    def initialise(self, sample: Float[Tensor, "row d_in"], generator: torch.Generator) -> None:
        """Sets the weights from the seed, and bias and input scale from a sample of raw activations."""

    @abstractmethod
    def losses(self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, " d_sae"]) -> tuple[dict[str, Float[Tensor, ""]], Codes]:
        """The named terms of the loss on raw activations; their sum is minimised. Also the codes, for counting."""

    @abstractmethod
    def after_step(self) -> None:
        """What the architecture does after each optimiser step, such as bringing decoder rows to unit norm."""

    @abstractmethod
    def default_lr(self) -> float:
        """The learning rate of the architecture's paper at this width."""


DICTIONARIES: Registry[Dictionary] = Registry("dictionary", "saelab.saes", "saelab.baselines")
"""Every dictionary, trainable or not, by name."""
