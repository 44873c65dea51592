"""What labellers and scorers may see of a feature, kept apart by type.

A labeller gets an `ExplainView`: windows of explain documents to make a label from, and of select documents to choose by. A scorer gets a
`ScoreView`: windows of score documents. Neither can reach the other's rows; a window of the wrong split is refused when a view is made, and
score windows that share 13 tokens in a row with an explain or select window never appear (near-duplicates would reward memory).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from saelab.features.duplicates import leaked
from saelab.features.examples import SPLITS, KeptSegments
from saelab.features.negatives import NegativeFinder, Negatives
from saelab.features.pool import Pool
from saelab.features.pool_vectors import pool_vectors
from saelab.features.store import FeatureStore
from saelab.features.vocabulary import Texts, Vocabulary

SplitName = Literal["explain", "select", "score"]


@dataclass(frozen=True)
class Windows:
    """Some stretches of text of one split, of one length and on one grid, with one feature's activations."""

    split: SplitName
    """The split that all their documents belong to."""
    texts: Texts
    """Their tokens, left context included."""
    counted: Bool[np.ndarray, "window pos"]
    """The positions that are looked at: not the left context, not what the dictionary does not read."""
    values: Float[np.ndarray, "window pos"]
    """The feature's activation at each token; all 0 in negatives."""
    document: Int[np.ndarray, " window"]
    """Number of each one's document."""
    segment: Int[np.ndarray, " window"]
    """Number of each one's segment."""

    def __len__(self) -> int:
        return len(self.document)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Each window as one text, left context included."""
        strings = self.texts.vocabulary.strings
        return tuple("".join(strings[token] for token in row if token >= 0) for row in self.texts.ids.tolist())

    @cached_property
    def peak(self) -> Int[np.ndarray, " window"]:
        """Column of each window's strongest token."""
        return np.abs(np.where(self.counted, self.values, 0)).argmax(1)

    @cached_property
    def strength(self) -> Float[np.ndarray, " window"]:
        """Largest activation in each window, without its sign."""
        return np.abs(np.where(self.counted, self.values, 0)).max(1)


@dataclass(frozen=True)
class ExplainView:
    """What a labeller may know of a feature."""

    feature: int
    """The feature's index."""
    positives: Windows
    """Windows of explain documents in which it fires, a uniform sample and the strongest ones."""
    negatives: Windows
    """Windows of explain documents in which it is silent."""
    select_positives: Windows
    """Windows of select documents in which it fires."""
    select_negatives: Windows
    """Windows of select documents in which it is silent."""
    promoted: tuple[str, ...]
    """Tokens that its decoder direction raises most, strongest first; empty where that is not known."""
    kurtosis: float
    """Excess kurtosis of its logits."""
    kurtosis_null: float
    """99 % quantile of the kurtosis of random directions."""

    def __post_init__(self) -> None:
        _same_split("explain", self.positives, self.negatives)
        _same_split("select", self.select_positives, self.select_negatives)


@dataclass(frozen=True)
class ScoreView:
    """What a scorer may know of a feature."""

    feature: int
    """The feature's index."""
    positives: Windows
    """Windows of score documents in which it fires, as many from each tenth of its activation distribution."""
    negatives: Windows
    """Windows of score documents in which it is silent."""
    kinds: tuple[str, ...]
    """How each negative was found: one of `KINDS` of `negatives`."""
    sample: Windows
    """Windows of score documents drawn whether it fires in them or not, the same for every feature; without activations."""
    fires: Bool[np.ndarray, " sample"]
    """In which windows of the sample it fires."""

    def __post_init__(self) -> None:
        _same_split("score", self.positives, self.negatives, self.sample)

    @property
    def base_rate(self) -> float:
        """Share of all windows in which it fires, by the sample (half a window is added to either side)."""
        return float((self.fires.sum() + 0.5) / (len(self.fires) + 1))


def _same_split(split: SplitName, *windows: Windows) -> None:
    assert all(part.split == split for part in windows), f"a view of {split} windows was given windows of another split"


class Views:
    """Makes the views of one store's features.

    Arguments:
    - `store`: the feature store.
    - `seed`: seed of the choice of negatives.
    """

    def __init__(self, store: FeatureStore, seed: int = 0) -> None:
        self.store = store
        self.vocabulary = Vocabulary(store.strings)
        self._promoted, self._kurtosis = store.promoted(), store.column("kurtosis")
        self._kurtosis_null = float(store.facts["kurtosis_null"] or np.inf)
        self._segments = store.segments()
        self._clean = ~leaked(self._segments.tokens, self._segments.split, before=store.before)
        kinds = {"segments": np.int64, "seen": np.bool_, "feature": np.int32, "member": np.int32}
        pool = Pool(**{name: store.array(f"pool.{name}", kind) for name, kind in kinds.items()}, vectors=pool_vectors(store))
        self._rows_of_pool = np.searchsorted(self._segments.segment, pool.segments)
        self._rows_of_pool[~pool.seen] = 0
        usable = pool.seen & self._clean[self._rows_of_pool]
        folded = self.vocabulary.folded[np.where(self._own(self._rows_of_pool), self._segments.tokens[self._rows_of_pool], -1)]
        split = self._segments.split[self._rows_of_pool]
        self._pool = pool
        self._sample = np.flatnonzero(usable & (split == SPLITS.index("score")))
        self._sampled = self._windows("score", self._rows_of_pool[self._sample], None)
        self._negatives = NegativeFinder(pool, usable, split, folded, store.all_neighbours(), self.vocabulary.is_word, seed)

    def explain(self, index: int) -> ExplainView:
        """What a labeller may know of a feature. Raises `NotFound` if there is no such feature."""
        kept = self.store.examples(index)
        positives = self._positives("explain", [kept[name] for name in ("explain", "top", "bottom") if name in kept])
        chosen = self._positives("select", [kept["select"]] if "select" in kept else [])
        return ExplainView(
            feature=index,
            positives=positives,
            negatives=self._silent(index, positives)[0],
            select_positives=chosen,
            select_negatives=self._silent(index, chosen)[0],
            promoted=tuple(self.vocabulary.strings[token] for token in self._promoted[index].tolist()),
            kurtosis=float(self._kurtosis[index]),
            kurtosis_null=self._kurtosis_null,
        )

    def score(self, index: int) -> ScoreView:
        """What a scorer may know of a feature. Raises `NotFound` if there is no such feature."""
        kept = self.store.examples(index)
        positives = self._positives("score", [kept["score"]] if "score" in kept else [], deciles=True)
        negatives, found = self._silent(index, positives)
        fires = np.isin(self._sample, self._pool.fires(index))
        return ScoreView(feature=index, positives=positives, negatives=negatives, kinds=found.kinds, sample=self._sampled, fires=fires)

    def _positives(self, split: SplitName, kept: list[KeptSegments], deciles: bool = False) -> Windows:
        if not kept:
            return self._windows(split, np.zeros(0, np.int64), None)
        numbers = np.concatenate([part.segment for part in kept])
        values = np.concatenate([part.values for part in kept])
        peaks = np.concatenate([part.peak for part in kept])
        _, first = np.unique(numbers, return_index=True)
        rows = np.searchsorted(self._segments.segment, numbers[first])
        good = self._clean[rows] & (self._segments.split[rows] == SPLITS.index(split))
        rows, first = rows[good], first[good]
        if deciles:
            even = _even_deciles(peaks[first])
            rows, first = rows[even], first[even]
        return self._windows(split, rows, values[first])

    def _silent(self, index: int, positives: Windows) -> tuple[Windows, Negatives]:
        peaks = positives.texts.folded[np.arange(len(positives)), positives.peak]
        bags = np.where(positives.counted, positives.texts.folded, -1)
        found = self._negatives.find(index, SPLITS.index(positives.split), len(positives), peaks, bags)
        return self._windows(positives.split, self._rows_of_pool[found.member], None), found

    def _own(self, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n pos"]:
        return self._segments.counted[rows]

    def _windows(self, split: SplitName, rows: Int[np.ndarray, " n"], values: Float[np.ndarray, "n pos"] | None) -> Windows:
        part = self._segments
        texts = Texts(
            vocabulary=self.vocabulary,
            ids=part.tokens[rows],
            start=part.start[rows],
            domains=tuple(part.domain[row] for row in rows.tolist()),
        )
        shape = texts.ids.shape
        return Windows(
            split=split,
            texts=texts,
            counted=part.counted[rows],
            values=np.zeros(shape, np.float32) if values is None else values,
            document=part.document[rows],
            segment=part.segment[rows],
        )


def _even_deciles(peaks: Float[np.ndarray, " n"]) -> Int[np.ndarray, " some"]:
    """As many windows from each tenth of the peaks: `n // 10` each, evenly spread within; all of them where there are fewer than ten."""
    each = len(peaks) // 10
    order = np.argsort(peaks, kind="stable")
    if each == 0:
        return order
    tenths = np.array_split(order, 10)
    return np.concatenate([tenth[np.linspace(0, len(tenth) - 1, each).round().astype(np.int64)] for tenth in tenths])
