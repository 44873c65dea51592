"""How well a label's rule foretells, token by token, where the feature fires on held-out documents.

Pearson correlation (Bills et al. 2023, "Language models can explain neurons in language models") of what the rule says (1 where it fires,
0 elsewhere: any level gives the same number) with the size of the activation, over the tokens of firing and silent windows together.
"""

from collections.abc import Sequence

import numpy as np

from saelab.features.views import ScoreView
from saelab.records import Label, Score
from saelab.scorers.base import SCORERS, Bench, Scorer
from saelab.scorers.metrics import correlations
from saelab.scorers.rule_detection import rule_of
from saelab.values import value


@SCORERS.register("rule_simulation")
@value
class RuleSimulation(Scorer):
    """Correlates a label's rule with the activations."""

    @property
    def metric(self) -> str:
        """The headline: Pearson correlation."""
        return "pearson"

    def score(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> tuple[Score, ...]:
        """The correlation over all windows, with null and lift; and over those alone in which the feature fires. Raises `Unscored`."""
        rules = [rule_of(label), *(rule_of(other) for other in nulls if other.predicate and len(nulls) >= self.min_nulls)]
        self.need_windows(view)
        both = (view.positives, view.negatives)
        masks = np.array([np.concatenate([rule.mask(part.texts) for part in both]) for rule in rules], np.float64)
        actual, counted = (np.concatenate(parts) for parts in zip(*((np.abs(part.values), part.counted) for part in both), strict=True))
        drawn = self.document_draws(np.concatenate([part.document for part in both]), view.feature)
        found = correlations(drawn, masks, actual, counted)
        split = len(view.positives)
        inside = correlations(drawn[:, :split], masks[:1, :split], actual[:split], counted[:split])
        return (self.lifted("pearson", found, view), self.drawn("pearson:firing", inside[:, 0], view, n=split))
