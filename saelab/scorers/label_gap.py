"""Is the feature hard to tell, or is its label bad? Ceiling minus label score on the same windows.

The ceiling is the AUROC of the feature's examples (`example_embedding`), the label's score that of its rule (`rule_detection`). A large gap
says that a better label is there to be found; below 0 the rule tells more than likeness to examples does. Both share the bootstrap draws.
"""

from collections.abc import Sequence

import numpy as np

from saelab.features.views import ScoreView
from saelab.records import Label, Score
from saelab.scorers.base import SCORERS, Bench, Scorer
from saelab.scorers.example_embedding import ExampleEmbedding
from saelab.scorers.rule_detection import RuleDetection
from saelab.values import value


@SCORERS.register("label_gap")
@value
class LabelGap(Scorer):
    """What the feature's examples tell beyond its label's rule."""

    @property
    def metric(self) -> str:
        """The headline: a difference of AUROCs."""
        return "gap"

    def score(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> tuple[Score, ...]:
        """The gap with its interval; and the ceiling. It has no null: 0 is a label as good as the examples. Raises `Unscored`."""
        self.need_windows(view)
        rule = RuleDetection(draws=self.draws, seed=self.seed)
        examples = ExampleEmbedding(draws=self.draws, seed=self.seed, nulls=0)
        said, ceiling = (scorer.areas(scorer.rank(label, view, [], bench), view)[:, 0] for scorer in (rule, examples))
        model = {"model": bench.embedder.name}
        return (self.drawn("gap", ceiling - said, view, **model), self.drawn("ceiling", np.asarray(ceiling), view, **model))
