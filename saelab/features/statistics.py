"""Statistics of features: exact, and the same in whatever order the tokens came. They load without torch; `tally` counts them.

Sums are float64. The histogram is logarithmic (four bins an octave), so that quantiles are known within 19 % at any scale.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

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
