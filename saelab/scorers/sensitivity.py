"""Does the feature fire where its label's rule says so? Labels read off the strongest examples often promise too much.

Share of the windows of a plain sample of held-out text in which the feature fires, among those in which the rule does (Hu et al. 2025,
"Measuring sparse autoencoder feature sensitivity", arXiv 2509.23717; "responsiveness" in FADE). The null is the same share among windows in
which rules of other features fire.
"""

from collections.abc import Sequence

import numpy as np

from saelab.errors import Unscored
from saelab.features.views import ScoreView
from saelab.records import Label, Score
from saelab.scorers.base import SCORERS, Bench, Scorer
from saelab.scorers.metrics import ratios
from saelab.scorers.rule_detection import rule_of
from saelab.values import value


@SCORERS.register("sensitivity")
@value
class Sensitivity(Scorer):
    """Share of the rule's windows in which the feature fires."""

    @property
    def metric(self) -> str:
        """The headline: the share of windows."""
        return "fires_given_rule"

    def score(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> tuple[Score, ...]:
        """The share with null and lift; and the share of the activation mass that lies on the rule's tokens. Raises `Unscored`."""
        rules = [rule_of(label), *(rule_of(other) for other in nulls if other.predicate and len(nulls) >= self.min_nulls)]
        self.need_windows(view)
        said = np.array([(rule.mask(view.sample.texts) & view.sample.counted).any(1) for rule in rules], np.float64)
        if not said[0].any():
            raise Unscored(f"the rule fires in none of {len(view.sample)} windows of held-out text")
        found = ratios(self.document_draws(view.sample.document, view.feature), said * view.fires, said)
        mass = np.abs(view.positives.values) * view.positives.counted
        covered = (mass * rules[0].mask(view.positives.texts)).sum(1)
        recalled = ratios(self.document_draws(view.positives.document, view.feature), covered[None], mass.sum(1)[None])
        n = int(said[0].sum())
        return (
            self.lifted("fires_given_rule", found, view, n=n, insufficient=n < self.enough, negatives=()),
            self.drawn("mass_recalled", recalled[:, 0], view, n=len(view.positives), negatives=()),
        )
