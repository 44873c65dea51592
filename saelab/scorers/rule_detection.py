"""How well a label's rule tells, on held-out documents, the windows in which the feature fires from those in which it is silent.

The number of tokens at which the rule fires ranks the windows.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from saelab.errors import Unscored
from saelab.features.views import ScoreView, Windows
from saelab.labellers.predicates import Rule, parse
from saelab.records import Label, Score
from saelab.scorers.base import SCORERS, Bench
from saelab.scorers.metrics import average_precisions
from saelab.scorers.ranking import Ranked, Ranking
from saelab.values import value


@SCORERS.register("rule_detection")
@value
class RuleDetection(Ranked):
    """Scores the rule of a label as a detector of the feature's windows."""

    shown = True

    def rank(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> Ranking:
        """By how often the rule fires. Raises `Unscored` for a label without a rule."""
        rules = [rule_of(label), *(rule_of(other) for other in nulls if other.predicate)]
        return Ranking(up=_strengths(rules, view.positives), down=_strengths(rules, view.negatives))

    def more(self, ranking: Ranking, view: ScoreView) -> tuple[Score, ...]:
        """Average precision and balanced accuracy of the rule."""
        up, down = ranking.up[:1], ranking.down[:1]
        balanced = ((up > 0).mean() + (down == 0).mean()) / 2
        return (
            self.made("average_precision", float(average_precisions(up, down)[0]), view),
            self.made("balanced_accuracy", float(balanced), view),
        )


def rule_of(label: Label | None) -> Rule:
    """The rule that a label states. Raises `Unscored` where it states none."""
    if label is None or not label.predicate:
        raise Unscored("the label states no rule to score")
    return _parsed(label.predicate)


@lru_cache(maxsize=65536)
def _parsed(predicate: str) -> Rule:
    return parse(predicate)


def _strengths(rules: Sequence[Rule], windows: Windows) -> Int[np.ndarray, "rule window"]:
    """At how many counted tokens each rule fires in each window."""
    return np.array([(rule.mask(windows.texts) & windows.counted).sum(1) for rule in rules])
