"""Examples: which stretches of text are kept for each feature, in bounded memory and independent of the order they come in.

Text is cut into *segments*: `width` successive positions of a corpus window, on a fixed grid. A segment that a feature fires in and one
where it is silent are placed alike, so that nothing can tell them apart by their form. A segment is shown with `before` tokens of left
context. Only numbers of segments are kept while collecting; their tokens come from the corpus.
"""

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
    def positions(self) -> int:
        """Places that a window takes: its context rounded up to whole segments."""
        return self.per_window * self.width

    @property
    def extent(self) -> int:
        """Places of the whole corpus."""
        return self.corpus.num_windows * self.positions

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

    def tokens_at(self, places: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The token id at each place, -1 beyond the text of its window."""
        found = np.full(len(places), -1, np.int32)
        window, position = np.divmod(places, self.positions)
        order = np.argsort(window, kind="stable")
        numbers = np.unique(window)
        for some in np.array_split(numbers, max(1, len(numbers) // 4096)) if len(numbers) else []:
            part = order[np.searchsorted(window[order], some[0]) : np.searchsorted(window[order], some[-1], "right")]
            text, row = self.corpus.windows(some)[0], np.searchsorted(some, window[part])
            inside = position[part] < self.corpus.window_length[window[part]]
            found[part] = np.where(inside, text[row, np.where(inside, position[part], 0)], -1)
        return found

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
