"""Examples: which stretches of text are kept for each feature, in bounded memory and independent of the order they come in.

Text is cut into *segments*: `width` successive positions of a corpus window, on a fixed grid. A segment that a feature fires in and one
where it is silent are placed alike, so that nothing can tell them apart by their form. A segment is shown with `before` tokens of left
context. Only numbers of segments are kept while collecting; their tokens come from the corpus.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from saelab.corpus import Corpus

SPLITS = ("explain", "select", "score")
SPLIT_SHARES = (0.50, 0.15, 0.35)
LEVELS = 127
"""Steps of a kept activation relative to the segment's strongest one."""


@dataclass(frozen=True)
class KeptSegments:
    """The segments kept of one kind for one feature, best first."""

    segment: Int[np.ndarray, " n"]
    """Numbers of the segments."""
    peak: Float[np.ndarray, " n"]
    """The feature's activation that each was kept for: the largest one in `top`, the smallest one in `bottom`, else the strongest one."""
    values: Float[np.ndarray, "n length"]
    """Its activation at each token shown."""


@dataclass(frozen=True)
class SegmentTexts:
    """Text of some segments, sorted by number."""

    segment: Int[np.ndarray, " n"]
    """Numbers of the segments."""
    document: Int[np.ndarray, " n"]
    """Number of each one's document."""
    domain: tuple[str, ...]
    """Kind of each one's document."""
    split: Int[np.ndarray, " n"]
    """Split of each one's document, as an index into `SPLITS`."""
    position: Int[np.ndarray, " n"]
    """Position in the document of the first column."""
    start: Int[np.ndarray, " n"]
    """Position in the subject's window of the first column; negative where it is padding."""
    tokens: Int[np.ndarray, "n length"]
    """Token ids, -1 where there is none."""
    counted: np.ndarray
    """Which of a segment's own positions count (bool)."""


class Grid:
    """Where the segments of a corpus lie.

    Arguments:
    - `corpus`: the token windows.
    - `width`: positions in a segment.
    - `before`: positions of left context that are shown with it.
    """

    def __init__(self, corpus: Corpus, width: int, before: int) -> None:
        self.corpus = corpus
        self.width = width
        self.before = before
        self.per_window = -(-corpus.policy.context // width)
        splits = [SPLITS.index(corpus.document(number).split) for number in range(corpus.num_documents)]
        self.window_split: Int[np.ndarray, " window"] = np.array(splits, np.int8)[corpus.window_document]

    @property
    def length(self) -> int:
        """Tokens shown of a segment, left context included."""
        return self.before + self.width

    def split(self, segment: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Which split each segment belongs to, as an index into `SPLITS`."""
        return self.window_split[segment // self.per_window]

    def all(self) -> Int[np.ndarray, " n"]:
        """Every segment that has a token."""
        offsets = np.arange(self.per_window) * self.width
        window, place = np.nonzero(offsets[None, :] < self.corpus.window_length[:, None])
        return window * self.per_window + place

    def tokens(self, segments: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, "n length"], Bool[np.ndarray, "n length"]]:
        """Token ids of some segments with left context, -1 where there is none; and which of their own positions count."""
        ids = np.full((len(segments), self.length), -1, np.int32)
        counted = np.zeros((len(segments), self.length), np.bool_)
        for some in np.array_split(np.arange(len(segments)), max(1, len(segments) // 4096)):
            window, place = np.divmod(segments[some], self.per_window)
            own = place[:, None] * self.width
            column = own - self.before + np.arange(self.length)
            inside = (column >= 0) & (column < self.corpus.window_length[window][:, None])
            text, counts = self.corpus.windows(window)
            where = np.where(inside, column, 0)
            ids[some] = np.where(inside, np.take_along_axis(text, where, axis=1), -1)
            counted[some] = inside & (column >= own) & np.take_along_axis(counts, where, axis=1)
        return ids, counted


def uniform(segment: Int[np.ndarray, " n"], feature: Int[np.ndarray, " n"] | int, seed: int) -> Float[np.ndarray, " n"]:
    """A number in [0, 1) for each pair, from a hash (splitmix64): the largest ones of a feature are a uniform sample of its segments."""
    x = np.atleast_1d(segment).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x ^= (np.atleast_1d(feature).astype(np.uint64) + np.uint64(seed + 1)) * np.uint64(0xD1B54A32D192ED03)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Kept:
    """The `capacity` segments with the largest keys for each feature, best first. Ties go to the earlier segment.

    Arguments:
    - `d_sae`: number of features.
    - `capacity`: segments kept for each.
    - `length`: tokens of a segment whose activations are kept.
    """

    def __init__(self, d_sae: int, capacity: int, length: int) -> None:
        self.key: Float[np.ndarray, "d_sae kept"] = np.full((d_sae, capacity), -np.inf, np.float64)
        self.segment: Int[np.ndarray, "d_sae kept"] = np.full((d_sae, capacity), -1, np.int64)
        self.peak: Float[np.ndarray, "d_sae kept"] = np.zeros((d_sae, capacity), np.float32)
        self.levels: Int[np.ndarray, "d_sae kept length"] = np.zeros((d_sae, capacity, length), np.int8)

    def offer(
        self,
        feature: Int[np.ndarray, " n"],
        key: Float[np.ndarray, " n"],
        segment: Int[np.ndarray, " n"],
        peak: Float[np.ndarray, " n"],
        levels: Callable[[Int[np.ndarray, " some"]], Int[np.ndarray, "some length"]],
    ) -> None:
        """Keeps those of some new segments that are good enough. `levels` gives the activations of the ones asked for, by number."""
        good = np.flatnonzero(key >= self.key[feature, -1])
        if not len(good):
            return
        order = good[np.lexsort((segment[good], -key[good], feature[good]))]
        first = np.flatnonzero(np.diff(feature[order], prepend=-1))
        rank = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
        order, rank = order[rank < self.key.shape[1]], rank[rank < self.key.shape[1]]
        rows, row = np.unique(feature[order], return_inverse=True)
        block = Kept(len(rows), self.key.shape[1], self.levels.shape[2])
        block.key[row, rank] = key[order]
        block.segment[row, rank] = segment[order]
        block.peak[row, rank] = peak[order]
        block.levels[row, rank] = levels(order)
        self._absorb(rows, block)

    def merge(self, other: "Kept") -> None:
        """Keeps the best of both."""
        self._absorb(np.arange(len(self.key)), other)

    def _absorb(self, rows: Int[np.ndarray, " some"], block: "Kept") -> None:
        capacity = self.key.shape[1]
        key = np.concatenate([self.key[rows], block.key], axis=1)
        segment = np.concatenate([self.segment[rows], block.segment], axis=1)
        best = np.lexsort((segment, -key), axis=1)[:, :capacity]
        row = np.arange(len(rows))[:, None]
        self.key[rows] = key[row, best]
        self.segment[rows] = segment[row, best]
        self.peak[rows] = np.concatenate([self.peak[rows], block.peak], axis=1)[row, best]
        self.levels[rows] = np.concatenate([self.levels[rows], block.levels], axis=1)[row, best]


class Pool:
    """A sample of segments, the same for every feature, with the features that fire in each: any feature finds its negatives in it,
    verified to be silent there.

    Arguments:
    - `segments`: the segments of the pool, sorted.
    """

    def __init__(self, segments: Int[np.ndarray, " pool"]) -> None:
        self.segments = segments
        self.seen: Bool[np.ndarray, " pool"] = np.zeros(len(segments), np.bool_)
        self.feature: Int[np.ndarray, " active"] = np.zeros(0, np.int32)
        self.member: Int[np.ndarray, " active"] = np.zeros(0, np.int32)
        self.peak: Float[np.ndarray, " active"] = np.zeros(0, np.float32)
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    @classmethod
    def draw(cls, grid: Grid, size: int, seed: int) -> "Pool":
        """A pool of about `size` segments: a uniform sample of each split, in proportion to what the splits are used for."""
        segments = grid.all()
        split, key = grid.split(segments), uniform(segments, 0, seed)
        chosen: list[np.ndarray] = []
        for number, share in enumerate((0.4, 0.2, 0.4)):
            own = np.flatnonzero(split == number)
            chosen.append(segments[own[np.argsort(key[own], kind="stable")[: round(size * share)]]])
        return cls(np.sort(np.concatenate(chosen)))

    def find(self, segment: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Each segment's place in the pool, -1 where it is not in it."""
        if not len(self.segments):
            return np.full(len(segment), -1)
        place = np.minimum(np.searchsorted(self.segments, segment), len(self.segments) - 1)
        return np.where(self.segments[place] == segment, place, -1)

    def add(
        self,
        seen: Int[np.ndarray, " m"],
        feature: Int[np.ndarray, " n"],
        segment: Int[np.ndarray, " n"],
        peak: Float[np.ndarray, " n"],
    ) -> None:
        """Notes which segments were looked at, and which features fire in them and how strongly."""
        place = self.find(seen)
        self.seen[place[place >= 0]] = True
        member = self.find(segment)
        inside = member >= 0
        self._parts.append((feature[inside].astype(np.int32), member[inside].astype(np.int32), peak[inside].astype(np.float32)))

    def settle(self) -> None:
        """Sorts everything noted by feature, then segment."""
        parts = [(self.feature, self.member, self.peak), *self._parts]
        feature, member, peak = (np.concatenate([part[i] for part in parts]) for i in range(3))
        order = np.lexsort((member, feature))
        self.feature, self.member, self.peak = feature[order], member[order], peak[order]
        self._parts = []

    def merge(self, other: "Pool") -> None:
        """Adds what another pass saw of the same pool."""
        other.settle()
        self.seen |= other.seen
        self._parts.append((other.feature, other.member, other.peak))
        self.settle()

    def fires(self, feature: int) -> Int[np.ndarray, " some"]:
        """The members of the pool in which a feature fires."""
        low, high = np.searchsorted(self.feature, (feature, feature + 1))
        return self.member[low:high]
