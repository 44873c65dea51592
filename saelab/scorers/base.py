"""Scorers: a number for a label, measured on documents that the labeller never saw, beside what labels of other features would get."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from saelab.errors import Unscored
from saelab.features.store import FeatureStore
from saelab.features.views import ScoreView, Views
from saelab.progress import track
from saelab.records import Label, Score
from saelab.registry import Registry
from saelab.values import to_json, value


@value
class Scorer(ABC):
    """Abstract: scores labels. A subclass is a frozen value, its own config, and registers itself in `SCORERS`."""

    nulls: int = 12
    """Labels of other features, matched on density, that make the null."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """What the headline number is, such as `auroc`."""

    @abstractmethod
    def score(self, label: Label, view: ScoreView, nulls: Sequence[Label]) -> tuple[Score, ...]:
        """The scores of a label, the headline first. Raises `Unscored` with the reason if there can be none.

        Arguments:
        - `label`: the label.
        - `view`: score documents only.
        - `nulls`: labels of other features.
        """


SCORERS: Registry[Scorer] = Registry("scorer", "saelab.scorers")
"""Every scorer by name."""


def score_features(store: FeatureStore, scorer: Scorer, labeller: str = "rules", indices: Sequence[int] | None = None) -> int:
    """Scores those labels that this scorer has not scored yet, each kept as soon as it is made; a failure is kept with its reason.

    Arguments:
    - `store`: the feature store, read and written.
    - `scorer`: makes the scores.
    - `labeller`: whose labels are scored.
    - `indices`: only these features; all with a label without it.

    Returns how many were scored now.
    """
    name = SCORERS.name_of(type(scorer))
    labels = store.labels(labeller)
    waiting = store.unscored(labeller, name)
    if indices is not None:
        wanted = {store.id(index).index for index in indices}
        waiting = [index for index in waiting if index in wanted]
    nulls = Nulls(labels, store.column("density"))
    views = Views(store) if waiting else None
    total = len(labels) if indices is None else len(set(indices) & set(labels))
    for index in track(waiting, stage="score", total=total, unit="features", done=total - len(waiting)):
        assert views is not None
        try:
            if not labels[index].found:
                raise Unscored("the labeller found no rule to score")
            scores = scorer.score(labels[index], views.score(index), nulls.of(index, scorer.nulls))
        except Unscored as reason:
            scores = (Score(scorer=name, metric=scorer.metric, value=None, failed=str(reason), made_by=to_json(scorer)),)
        store.put_scores(index, labels[index], scores)
    return len(waiting)


class Nulls:
    """Labels of other features that stand in for a label of one: those that state a rule, with the closest densities.

    Arguments:
    - `labels`: every label by feature.
    - `density`: density of every feature.
    """

    def __init__(self, labels: dict[int, Label], density: np.ndarray) -> None:
        found = np.array([index for index, label in sorted(labels.items()) if label.found], np.int64)
        self._labels = labels
        self._density = density
        self._order = found[np.argsort(density[found], kind="stable")]
        self._sorted = density[self._order]

    def of(self, index: int, count: int) -> list[Label]:
        """Up to `count` labels, the closest density first; never the feature's own, nor one that states the same rule."""
        own = self._labels[index].predicate
        place = int(np.searchsorted(self._sorted, self._density[index]))
        near = self._order[max(0, place - 2 * count) : place + 2 * count]
        near = near[np.argsort(np.abs(np.log(self._density[near] + 1e-12) - np.log(self._density[index] + 1e-12)), kind="stable")]
        others = [self._labels[int(other)] for other in near if other != index and self._labels[int(other)].predicate != own]
        return others[:count]
