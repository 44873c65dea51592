"""Statistics of features: exact, bounded in memory, and the same in whatever order the tokens came.

Sums are kept in float64. The histogram is logarithmic (four bins an octave), so that quantiles are known within 19 % at any scale.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from saelab.records import Estimate, Histogram

BINS_PER_OCTAVE = 4
LOWEST_OCTAVE = -10
NUM_BINS = 96


class Statistics:
    """Counts, moments, extremes and histogram of each feature's activations where it fires.

    Arguments:
    - `d_sae`: number of features.
    """

    def __init__(self, d_sae: int) -> None:
        self.num_tokens = 0
        self.count: Int[np.ndarray, " d_sae"] = np.zeros(d_sae, np.int64)
        self.total: Float[np.ndarray, " d_sae"] = np.zeros(d_sae, np.float64)
        self.squares: Float[np.ndarray, " d_sae"] = np.zeros(d_sae, np.float64)
        self.max: Float[np.ndarray, " d_sae"] = np.zeros(d_sae, np.float32)
        self.min: Float[np.ndarray, " d_sae"] = np.zeros(d_sae, np.float32)
        self.histogram: Int[np.ndarray, "d_sae bins"] = np.zeros((d_sae, NUM_BINS), np.int32)

    def add(self, feature: Int[np.ndarray, " active"], value: Float[np.ndarray, " active"], num_tokens: int) -> None:
        """Counts the active codes of `num_tokens` further tokens in. `feature` must be sorted; no value may be 0."""
        self.num_tokens += num_tokens
        if not len(feature):
            return
        starts = np.flatnonzero(np.diff(feature, prepend=-1))
        rows = feature[starts]
        exact = value.astype(np.float64)
        sizes = np.diff(starts, append=len(feature))
        self.count[rows] += sizes
        self.total[rows] += np.add.reduceat(exact, starts)
        self.squares[rows] += np.add.reduceat(exact * exact, starts)
        self.max[rows] = np.maximum(self.max[rows], np.maximum.reduceat(value, starts))
        self.min[rows] = np.minimum(self.min[rows], np.minimum.reduceat(value, starts))
        cells = np.repeat(np.arange(len(rows)) * NUM_BINS, sizes) + bin_of(value)
        self.histogram[rows] += np.bincount(cells, minlength=len(rows) * NUM_BINS).reshape(-1, NUM_BINS).astype(np.int32)

    def merge(self, other: "Statistics") -> None:
        """Counts in what another pass saw on other tokens."""
        self.num_tokens += other.num_tokens
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.max = np.maximum(self.max, other.max)
        self.min = np.minimum(self.min, other.min)
        self.histogram += other.histogram

    @property
    def density(self) -> Float[np.ndarray, " d_sae"]:
        """Share of tokens on which each feature fires."""
        return self.count / max(1, self.num_tokens)

    @property
    def mean(self) -> Float[np.ndarray, " d_sae"]:
        """Mean activation where each feature fires; 0 where it never does."""
        return self.total / np.maximum(1, self.count)


def bin_of(value: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The histogram bin of each activation's magnitude; the first and the last bin take what lies beyond."""
    place = np.floor((np.log2(np.abs(value)) - LOWEST_OCTAVE) * BINS_PER_OCTAVE)
    return np.clip(place, 0, NUM_BINS - 1).astype(np.int64)


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
