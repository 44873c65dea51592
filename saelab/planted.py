"""Vectors with planted features: data of which it is known what it is made of, for tests and measurements of recovery.

    x   = Σ_i z_i d_i + b + σ ε          z_i = a_i s (1 + w (2 v_i - 1))
    a_i = [u_i < r_i]                    for a child, only where its parent fires, or with chance 1 - h where it does not
    u_i = U_group(i) with chance √ρ, else a number of its own: two equally frequent features of a group have firing correlation ρ

with ε standard normal, v, u, U uniform on [0, 1], s `strength`, w `spread`, σ `noise`, b of norm `mean`, ρ `correlation`, h `hierarchy`.
The features i of a group follow one another; where there is a hierarchy the first is the parent of the others.

- Rates: feature i fires on the share p_i of the rows, Σ p_i = l0, p_i ∝ 1 or 1 / (i + 1), at most a half; a parent p ∝ size of its group
  times that. r_i = p_i, for a child p_i / (p + (1 - h)(1 - p)). With both correlation and hierarchy children fire more often than p_i.
- Directions: d_i ∝ √(1 - c) o_i + √c m, with m one random unit vector and o_i random unit vectors, orthogonal to each other where
  there are no more of them than dimensions. More are in superposition. Two directions have cosine c (`coherence`) on average.

Sparse sums of planted directions are the model under which the recovery of SAEs can be proved (Chen et al. 2025,
https://arxiv.org/abs/2506.14002). Hierarchy is what makes them absorb (Chanin et al. 2024, https://arxiv.org/abs/2409.14507).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.dictionary import Codes
from saelab.errors import Invalid
from saelab.values import value

MAX_RATE = 0.5
"""No planted feature fires on a larger share of the rows."""


@value
class Planted:
    """What the vectors are made of."""

    d_in: int
    """Width of the vectors."""
    num_features: int
    """Planted features; more than `d_in` are in superposition."""
    l0: float
    """Mean number of features that fire on a row."""
    coherence: float = 0.0
    """Mean cosine between two directions, beyond what superposition makes unavoidable; 0 to below 1."""
    group_size: int = 1
    """Features in a group: those that correlation or hierarchy ties together."""
    correlation: float = 0.0
    """Correlation between the firings of two features of a group, 0 to 1."""
    hierarchy: float = 0.0
    """Share of the firings of a child without its parent that are suppressed: 0 is no hierarchy, at 1 no child fires without its parent."""
    firing: Literal["uniform", "zipf"] = "uniform"
    """uniform: all features are equally frequent. zipf: the i-th is 1 / i as frequent as the first."""
    strength: float = 1.0
    """Mean value of a feature where it fires."""
    spread: float = 0.5
    """The values lie up to this share of `strength` below and above it; 0 to below 1."""
    noise: float = 0.0
    """Standard deviation of the noise on each dimension."""
    mean: float = 0.0
    """Norm of a vector that is added to every row."""
    seed: int = 0
    """Seed of directions and mean, and part of every batch's."""


@dataclass(frozen=True)
class Vectors:
    """Some rows and what they are made of."""

    x: Float[Tensor, "row d_in"]
    """The vectors."""
    codes: Codes
    """The planted features that fire on each row, with their values."""

    @property
    def firing(self) -> Tensor:
        """Which feature fires on which row: true or false, [row feature]."""
        return self.codes.dense() != 0


class World:
    """The source of planted vectors that a config describes; it has no state, every batch follows from its number.

    Raises `Invalid` naming the field that will not do.
    """

    def __init__(self, config: Planted) -> None:
        _check(config)
        self.config = config
        draw = np.random.default_rng([0, config.seed])
        self.directions: Float[Tensor, "feature d_in"] = torch.from_numpy(_directions(config, draw)).float()
        """Unit vectors, a row a feature."""
        self.bias: Float[Tensor, " d_in"] = torch.from_numpy(config.mean * _unit(draw.standard_normal(config.d_in))).float()
        """What is added to every row."""
        self.parents: Int[Tensor, " feature"] = torch.from_numpy(_parents(config))
        """The parent of each feature, -1 for one that has none."""
        self.rates: Float[Tensor, " feature"] = torch.from_numpy(_rates(config))
        """On what share of the rows each feature fires."""

    def batch(self, size: int, number: int = 0, seed: int = 0) -> Vectors:
        """Batch `number` of the endless stream that a seed begins. Training and judging want different seeds."""
        config = self.config
        draw = np.random.default_rng([1, config.seed, seed, number])
        shape = (size, config.num_features)
        active = self._active(draw, shape)
        values = np.where(active, config.strength * (1 + config.spread * (2 * draw.random(shape, np.float32) - 1)), 0)
        z = torch.from_numpy(values.astype(np.float32))
        x = z @ self.directions + self.bias
        if config.noise:
            x += config.noise * torch.from_numpy(draw.standard_normal(x.shape, np.float32))
        return Vectors(x=x, codes=Codes.from_dense(z))

    def batches(self, size: int, seed: int = 0, start_step: int = 0) -> Iterator[Vectors]:
        """The endless stream of batches from a step on: batch n is the same whether the stream began at 0 or at n."""
        return (self.batch(size, number, seed) for number in count(start_step))

    def _active(self, draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        config = self.config
        chance = draw.random(shape, np.float32)
        if config.correlation:
            group = np.arange(config.num_features) // config.group_size
            shared = draw.random((shape[0], int(group[-1]) + 1), np.float32)[:, group]
            chance = np.where(draw.random(shape, np.float32) < config.correlation**0.5, shared, chance)
        parents, rates = self.parents.numpy(), self.rates.numpy()
        child = parents >= 0
        above = rates[parents]
        active = chance < np.where(child, rates / (above + (1 - config.hierarchy) * (1 - above)), rates)
        if child.any():
            alone = draw.random(shape, np.float32) >= config.hierarchy
            active &= ~child | active[:, parents] | alone
        return active


def _directions(config: Planted, draw: np.random.Generator) -> np.ndarray:
    own = draw.standard_normal((config.num_features, config.d_in))
    if config.num_features <= config.d_in:
        own = np.linalg.qr(own.T)[0].T
    rows = (1 - config.coherence) ** 0.5 * _unit(own) + config.coherence**0.5 * _unit(draw.standard_normal(config.d_in))
    return _unit(rows)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _parents(config: Planted) -> np.ndarray:
    numbers = np.arange(config.num_features)
    first = numbers - numbers % config.group_size
    return np.where((first != numbers) & (config.hierarchy > 0), first, -1)


def _rates(config: Planted) -> np.ndarray:
    """Proportional to the weights, but for those that would exceed the largest rate."""
    numbers = np.arange(config.num_features)
    weights = np.ones(len(numbers)) if config.firing == "uniform" else 1 / (numbers + 1)
    if config.hierarchy:
        weights = np.where(numbers % config.group_size == 0, config.group_size * weights, weights)
    rates = weights * config.l0 / weights.sum()
    while rates.max() > MAX_RATE:
        full = rates >= MAX_RATE
        rates = np.where(full, MAX_RATE, rates * (config.l0 - MAX_RATE * full.sum()) / rates[~full].sum())
    return rates


def _check(config: Planted) -> None:
    for name in ("d_in", "num_features", "group_size"):
        if getattr(config, name) < 1:
            raise Invalid(f"{name} is {getattr(config, name)}; it must be at least 1.")
    if not 0 < config.l0 < MAX_RATE * config.num_features:
        raise Invalid(
            f"l0 is {config.l0}; it must lie between 0 and half the number of features, {MAX_RATE * config.num_features:g}: "
            "no feature fires on more than half of the rows."
        )
    for name in ("coherence", "spread"):
        if not 0 <= getattr(config, name) < 1:
            raise Invalid(f"{name} is {getattr(config, name)}; it must be from 0 to below 1.")
    for name in ("correlation", "hierarchy"):
        if not 0 <= getattr(config, name) <= 1:
            raise Invalid(f"{name} is {getattr(config, name)}; it must be from 0 to 1.")
    if (config.correlation or config.hierarchy) and config.group_size == 1:
        raise Invalid("Correlation and hierarchy tie the features of a group together: group_size must be 2 or more for them.")
    for name in ("strength", "noise", "mean", "seed"):
        if getattr(config, name) < 0:
            raise Invalid(f"{name} is {getattr(config, name)}; it must not be negative.")
