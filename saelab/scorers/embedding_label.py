"""How alike a label and the feature's windows are as texts.

Held-out windows are ranked by the cosine of their embedding with the label's (Paulo et al. 2024). It hears what a label means, and so suits
labels that a language model wrote; even right labels of moods or of grammar score near a half, so that it is never the only score.
"""

from collections.abc import Sequence

from saelab.errors import Unscored
from saelab.features.views import ScoreView
from saelab.records import Label
from saelab.scorers.base import SCORERS, Bench
from saelab.scorers.ranking import Ranked, Ranking
from saelab.values import value


@SCORERS.register("embedding_label")
@value
class EmbeddingLabel(Ranked):
    """Ranks windows by their likeness to the label's words. Its model says which embedder: `minilm`, or `hashed` without it."""

    def rank(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> Ranking:
        """By the cosine with what the label says the feature fires on. Raises `Unscored` where it says nothing."""
        if label is None or not label.input_clause:
            raise Unscored("the label does not say what the feature fires on")
        said = bench.embedder.texts([item.input_clause for item in (label, *nulls)])
        up, down = (said @ bench.embedder.texts(part.words).T for part in (view.positives, view.negatives))
        return Ranking(up=up, down=down, facts={"model": bench.embedder.name})
