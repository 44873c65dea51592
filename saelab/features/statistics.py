"""Statistics of features: exact, bounded in memory, and the same in whatever order the tokens came.

Sums are kept in float64. The histogram is logarithmic (four bins an octave), so that quantiles are known within 19 % at any scale.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.features.entries import Entries, reduced
from saelab.records import Estimate, Histogram

BINS_PER_OCTAVE = 4
LOWEST_OCTAVE = -10
NUM_BINS = 96


@dataclass(frozen=True)
class Statistics:
    """Counts, moments, extremes and histogram of each feature's activations where it fires."""

    num_tokens: int
    """Tokens that were looked at."""
    count: Int[np.ndarray, " d_sae"]
    """Tokens on which each feature fires."""
    total: Float[np.ndarray, " d_sae"]
    """Sum of its activations."""
    squares: Float[np.ndarray, " d_sae"]
    """Sum of their squares."""
    max: Float[np.ndarray, " d_sae"]
    """The largest one; 0 where none is positive."""
    min: Float[np.ndarray, " d_sae"]
    """The smallest one; 0 where none is negative."""
    histogram: Int[np.ndarray, "d_sae bins"]
    """How many magnitudes lie in each bin."""

    @property
    def density(self) -> Float[np.ndarray, " d_sae"]:
        """Share of tokens on which each feature fires."""
        return self.count / max(1, self.num_tokens)

    @property
    def mean(self) -> Float[np.ndarray, " d_sae"]:
        """Mean activation where each feature fires; 0 where it never does."""
        return self.total / np.maximum(1, self.count)


class Tally:
    """The statistics while they are being counted, on the device where the codes are.

    Arguments:
    - `d_sae`: number of features.
    - `device`: where the numbers lie.
    """

    def __init__(self, d_sae: int, device: torch.device | str = "cpu") -> None:
        self.num_tokens = 0
        self.count: Int[Tensor, " d_sae"] = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.total: Float[Tensor, " d_sae"] = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.squares: Float[Tensor, " d_sae"] = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.max: Float[Tensor, " d_sae"] = torch.zeros(d_sae, device=device)
        self.min: Float[Tensor, " d_sae"] = torch.zeros(d_sae, device=device)
        self.histogram: Int[Tensor, "d_sae bins"] = torch.zeros(d_sae, NUM_BINS, dtype=torch.int32, device=device)

    def add(self, entries: Entries, num_tokens: int) -> None:
        """Counts the active codes of `num_tokens` further tokens in."""
        self.num_tokens += num_tokens
        if not len(entries):
            return
        bounds = torch.searchsorted(entries.feature, torch.arange(len(self.count) + 1, device=self.count.device, dtype=torch.int32))
        exact = entries.value.double()
        self.count += bounds.diff()
        self.total += reduced(exact, "sum", bounds)
        self.squares += reduced(exact.square_(), "sum", bounds)
        self.max = torch.maximum(self.max, reduced(entries.value, "max", bounds))
        self.min = torch.minimum(self.min, reduced(entries.value, "min", bounds))
        cells = entries.feature.long() * NUM_BINS + bins(entries.value)
        self.histogram.view(-1).index_add_(0, cells, torch.ones_like(cells, dtype=torch.int32))

    def merge(self, other: "Tally") -> None:
        """Counts in what another pass saw on other tokens."""
        self.num_tokens += other.num_tokens
        for name in ("count", "total", "squares", "histogram"):
            getattr(self, name).add_(getattr(other, name).to(self.count.device))
        self.max = torch.maximum(self.max, other.max.to(self.max.device))
        self.min = torch.minimum(self.min, other.min.to(self.min.device))

    def tensors(self) -> dict[str, Tensor]:
        """The numbers by name, for a file."""
        return {name: getattr(self, name) for name in ("count", "total", "squares", "max", "min", "histogram")}

    def load(self, tensors: Mapping[str, Tensor], num_tokens: int) -> None:
        """Takes up what `tensors` gave."""
        self.num_tokens = num_tokens
        for name in self.tensors():
            setattr(self, name, tensors[name].to(self.count.device))

    def statistics(self) -> Statistics:
        """What was counted so far."""
        return Statistics(num_tokens=self.num_tokens, **{name: tensor.cpu().numpy().copy() for name, tensor in self.tensors().items()})


def bins(value: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The histogram bin of each activation's magnitude; the first and the last bin take what lies beyond."""
    return value.abs().log2_().sub_(LOWEST_OCTAVE).mul_(BINS_PER_OCTAVE).floor_().clamp_(0, NUM_BINS - 1).long()


def histogram(counts: Int[np.ndarray, " bins"]) -> Histogram:
    """The record of one feature's histogram, cut to the bins between its first and its last activation (magnitudes)."""
    used = np.flatnonzero(counts)
    if not len(used):
        return Histogram(edges=(0.0,), counts=())
    first, last = int(used[0]), int(used[-1])
    edges = 2.0 ** (np.arange(first, last + 2) / BINS_PER_OCTAVE + LOWEST_OCTAVE)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts[first : last + 1].tolist()))


def proportion(hits: int, n: int) -> Estimate:
    """A share with its 95 % Wilson interval (Wilson 1927), which stays inside [0, 1] and is right for rare events."""
    if n == 0:
        return Estimate(value=0.0, n=0)
    z = 1.959964
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(value=share, low=max(0.0, middle - half), high=min(1.0, middle + half), n=n)
