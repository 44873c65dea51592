"""Scores of whatever ranks windows: how well that ranking tells the windows in which a feature fires from those in which it is silent.

AUROC is the chance that a firing window is ranked above a silent one; 0.5 is luck. Negatives are of several kinds, each as heavy as the
others whatever its size, so that the headline is the mean over kinds. Intervals are bootstraps over documents. The null is the same score
with labels of other features of like density on the same windows; the lift is the score minus their mean, drawn together with it.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from saelab.features.views import ScoreView
from saelab.records import Label, Score
from saelab.scorers.base import Bench, Scorer
from saelab.scorers.metrics import auroc, wins
from saelab.values import value


@dataclass(frozen=True)
class Ranking:
    """How high some labels rank some windows: first the label that is scored, then those of other features."""

    up: Shaped[np.ndarray, "label positive"]
    """Where the windows rank in which the feature fires."""
    down: Shaped[np.ndarray, "label negative"]
    """Where those rank in which it is silent."""
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    """More for the fields of the scores: model, prompt, failures."""


@dataclass(frozen=True)
class Sides:
    """What is ranked: the documents of either side's windows, and the kinds of the negatives."""

    up: Shaped[np.ndarray, " positive"]
    """Documents of the windows in which the feature fires."""
    down: Shaped[np.ndarray, " negative"]
    """Documents of those in which it is silent."""
    kinds: tuple[str, ...]
    """Kind of each negative."""
    strength: Shaped[np.ndarray, " positive"]
    """How strongly the feature fires in each of its windows."""


@value
class Ranked(Scorer):
    """Abstract: a scorer that ranks windows."""

    @property
    def metric(self) -> str:
        """The headline: area under the ROC curve."""
        return "auroc"

    @abstractmethod
    def rank(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> Ranking:
        """Ranks the windows. Raises `Unscored` with the reason if it cannot."""

    def sides(self, view: ScoreView) -> Sides:
        """What is ranked: all windows of the view."""
        return Sides(view.positives.document, view.negatives.document, view.kinds, view.positives.strength)

    def chosen(self, view: ScoreView) -> ScoreView:
        """The windows that are ranked: all of them, but for scorers to whom each one is dear."""
        return view

    def score(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> tuple[Score, ...]:
        """AUROC with null and lift; on the strongest tenth of the windows alone; against each kind of negatives. Raises `Unscored`."""
        self.need_windows(view)
        view = self.chosen(view)
        ranking = self.rank(label, view, nulls if len(nulls) >= self.min_nulls else [], bench)
        sides, split = self.sides(view), ranking.up.shape[1]
        won, drawn, weighed = self._won(ranking, view)
        facts = {"n": split + len(sides.down), "negatives": tuple(sorted(set(sides.kinds))), **ranking.facts}
        headline = self.lifted("auroc", auroc(won, drawn[:, :split], weighed), view, **facts)
        strong = drawn[:, :split] * (sides.strength >= np.quantile(sides.strength, 0.9))
        top = self.drawn("auroc:top", auroc(won[:1], strong, weighed)[:, 0], view, **facts)
        by_kind: list[Score] = []
        for kind in sorted(set(sides.kinds)):
            own = np.array(sides.kinds) == kind
            areas = auroc(won[:1][:, :, own], drawn[:, :split], drawn[:, split:][:, own])[:, 0]
            by_kind.append(self.drawn(f"auroc:{kind}", areas, view, **{**facts, "n": split + int(own.sum()), "negatives": (kind,)}))
        return (headline, *self.more(ranking, view), top, *by_kind)

    def areas(self, ranking: Ranking, view: ScoreView) -> Float[np.ndarray, "draw label"]:
        """AUROC of each label's ranking, on all windows and on each bootstrap draw of documents."""
        won, drawn, weighed = self._won(ranking, view)
        return auroc(won, drawn[:, : ranking.up.shape[1]], weighed)

    def _won(self, ranking: Ranking, view: ScoreView) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which positives are ranked above which negatives; how often each window is drawn; the negatives' weights by kind."""
        sides = self.sides(view)
        drawn = self.document_draws(np.concatenate([sides.up, sides.down]), view.feature)
        won = wins(ranking.up.astype(np.float64), ranking.down.astype(np.float64))
        return won, drawn, drawn[:, len(sides.up) :] * _kind_weights(sides.kinds)

    def more(self, ranking: Ranking, view: ScoreView) -> tuple[Score, ...]:
        """Further scores that a subclass makes of its ranking."""
        return ()


def _kind_weights(kinds: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Weights that make each kind of negatives as heavy as the others."""
    names = np.array(kinds)
    _, place, counts = np.unique(names, return_inverse=True, return_counts=True)
    return 1.0 / (len(counts) * counts[place])
