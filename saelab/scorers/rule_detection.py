"""How well a label's rule tells, on held-out documents, the windows in which the feature fires from those in which it is silent.

The number of tokens at which the rule fires ranks the windows. Negatives are of four kinds, each as heavy as the others whatever its size,
so that the headline is the mean over kinds. Intervals are bootstraps over documents. The null is the same score with the rules of other
features of like density on the same windows; the lift is the score minus their mean, drawn together with it.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from saelab.errors import Unscored
from saelab.features.views import ScoreView, Windows
from saelab.labellers.predicates import Rule, parse
from saelab.records import Label, Score
from saelab.scorers.base import SCORERS, Scorer
from saelab.scorers.metrics import auroc, average_precisions, document_weights, interval, wins
from saelab.values import to_json, value


@SCORERS.register("rule_detection")
@value
class RuleDetection(Scorer):
    """Scores the rule of a label as a detector of the feature's windows."""

    draws: int = 200
    """Bootstrap draws of documents behind each interval."""
    enough: int = 10
    """Windows with the feature below which the score is flagged as insufficient."""
    min_nulls: int = 10
    """Labels of other features without which there is no null and no lift."""
    seed: int = 0
    """Seed of the bootstrap."""

    @property
    def metric(self) -> str:
        """The headline: area under the ROC curve."""
        return "auroc"

    def score(self, label: Label, view: ScoreView, nulls: Sequence[Label]) -> tuple[Score, ...]:
        """AUROC, average precision, balanced accuracy, and AUROC for each kind of negatives. Raises `Unscored` with the reason."""
        if not label.found:
            raise Unscored("the labeller found no rule to score")
        if len(view.positives) < 2 or len(view.negatives) < 2:
            raise Unscored(f"only {len(view.positives)} windows of the score documents hold the feature, at least 2 are needed")
        others = nulls if len(nulls) >= self.min_nulls else []
        rules = [_rule(item.predicate) for item in (label, *others)]
        up, down = _strengths(rules, view.positives), _strengths(rules, view.negatives)
        drawn = self._draws(view)
        won, split = wins(up, down), len(view.positives)
        headline = self._headline(auroc(won, drawn[:, :split], drawn[:, split:] * _kind_weights(view.kinds)), view)
        return (headline, *self._others(up[:1], down[:1], view), *self._by_kind(won[:1], drawn, view))

    def _draws(self, view: ScoreView) -> Float[np.ndarray, "draw window"]:
        """How often each window (positives, then negatives) is taken: once each, then as in the bootstrap draws of documents."""
        documents = np.concatenate([view.positives.document, view.negatives.document])
        drawn = document_weights(documents, self.draws, np.random.default_rng((self.seed, view.feature)))
        return np.concatenate([np.ones((1, len(documents))), drawn])

    def _score(self, metric: str, number: float, view: ScoreView, **more: object) -> Score:
        few = len(view.positives) < self.enough or len(view.negatives) < self.enough or len(np.unique(view.positives.document)) < 2
        facts = {"n": len(view.positives) + len(view.negatives), "insufficient": few, "seed": self.seed, "made_by": _config(self), **more}
        return Score(scorer="rule_detection", metric=metric, value=number, **facts)  # pyright: ignore[reportArgumentType]

    def _headline(self, areas: Float[np.ndarray, "draw rule"], view: ScoreView) -> Score:
        own, null = areas[:, 0], areas[:, 1:]
        low, high = interval(own[1:])
        if not null.shape[1]:
            return self._score("auroc", float(own[0]), view, low=low, high=high)
        lift = own - null.mean(1)
        lift_low, lift_high = interval(lift[1:])
        return self._score(
            "auroc",
            float(own[0]),
            view,
            low=low,
            high=high,
            null=float(null[0].mean()),
            lift=float(lift[0]),
            lift_low=lift_low,
            lift_high=lift_high,
        )

    def _others(self, up: Int[np.ndarray, "1 p"], down: Int[np.ndarray, "1 n"], view: ScoreView) -> tuple[Score, Score]:
        balanced = ((up > 0).mean() + (down == 0).mean()) / 2
        return (
            self._score("average_precision", float(average_precisions(up, down)[0]), view),
            self._score("balanced_accuracy", float(balanced), view),
        )

    def _by_kind(self, won: Float[np.ndarray, "1 p n"], drawn: Float[np.ndarray, "draw window"], view: ScoreView) -> list[Score]:
        split, kinds = len(view.positives), np.array(view.kinds)
        found: list[Score] = []
        for kind in sorted(set(view.kinds)):
            own = kinds == kind
            areas = auroc(won[:, :, own], drawn[:, :split], drawn[:, split:][:, own])[:, 0]
            low, high = interval(areas[1:])
            found.append(self._score(f"auroc:{kind}", float(areas[0]), view, low=low, high=high, n=split + int(own.sum())))
        return found


@lru_cache(maxsize=65536)
def _rule(predicate: str) -> Rule:
    return parse(predicate)


@lru_cache(maxsize=16)
def _config(scorer: RuleDetection) -> str:
    return to_json(scorer)


def _strengths(rules: Sequence[Rule], windows: Windows) -> Int[np.ndarray, "rule window"]:
    """At how many counted tokens each rule fires in each window."""
    return np.array([(rule.mask(windows.texts) & windows.counted).sum(1) for rule in rules])


def _kind_weights(kinds: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Weights that make each kind of negatives as heavy as the others."""
    names = np.array(kinds)
    _, place, counts = np.unique(names, return_inverse=True, return_counts=True)
    return 1.0 / (len(counts) * counts[place])
