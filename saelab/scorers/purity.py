"""Is the label's rule there where the feature fires, and how much would a finding of the rule be worth in ordinary text?

purity               share of the windows in which the feature fires that hold the rule, alike over all tenths of its activations
precision_at_base    π TPR / (π TPR + (1 - π) FPR): chance that a window which holds the rule fires the feature, at the rate π at which the
                     feature fires in ordinary text. Balanced sets hide how rare features are; the false alarms are counted on a plain
                     sample of held-out windows.
"""

from collections.abc import Sequence

import numpy as np

from saelab.features.views import ScoreView
from saelab.records import Label, Score
from saelab.scorers.base import SCORERS, Bench, Scorer
from saelab.scorers.metrics import ratios
from saelab.scorers.rule_detection import rule_of
from saelab.values import value


@SCORERS.register("purity")
@value
class Purity(Scorer):
    """Share of the feature's windows that hold the rule, and what the rule is worth at the true base rate."""

    @property
    def metric(self) -> str:
        """The headline: the share of windows."""
        return "rule_given_fires"

    def score(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> tuple[Score, ...]:
        """The share with null and lift, and the precision at the base rate with its own. Raises `Unscored`."""
        rules = [rule_of(label), *(rule_of(other) for other in nulls if other.predicate and len(nulls) >= self.min_nulls)]
        self.need_windows(view)
        held = np.array([(rule.mask(view.positives.texts) & view.positives.counted).any(1) for rule in rules], np.float64)
        said = np.array([(rule.mask(view.sample.texts) & view.sample.counted).any(1) for rule in rules], np.float64)
        silent = np.broadcast_to(~view.fires, said.shape).astype(np.float64)
        recall = ratios(self.document_draws(view.positives.document, view.feature), held, np.ones_like(held))
        alarms = ratios(self.document_draws(view.sample.document, view.feature), said * silent, silent)
        rate = view.base_rate
        with np.errstate(invalid="ignore"):
            precision = rate * recall / (rate * recall + (1 - rate) * alarms)
        n = len(view.positives)
        return (
            self.lifted("rule_given_fires", recall, view, n=n, negatives=()),
            self.lifted("precision_at_base", np.nan_to_num(precision), view, n=n + int(silent[0].sum()), negatives=()),
        )
