"""How well examples alone tell the feature's windows: the ceiling of what a label of it can reach.

Held-out windows are ranked by their likeness to the mean of the feature's explain windows minus the mean of windows where it is silent (the
example embedding score of Paulo et al. 2024, arXiv 2410.13928, with a centroid). No label is used. The null is the ranking by the
examples of other features.
"""

from collections.abc import Sequence

import numpy as np

from saelab.errors import Unscored
from saelab.features.views import ScoreView
from saelab.records import Label
from saelab.scorers.base import SCORERS, Bench
from saelab.scorers.ranking import Ranked, Ranking
from saelab.values import value


@SCORERS.register("example_embedding")
@value
class ExampleEmbedding(Ranked):
    """Ranks windows by their likeness to the feature's examples. Its model says which embedder: `minilm`, or `hashed` without it."""

    of_label = False

    def rank(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> Ranking:
        """By the dot product with the prototype. Raises `Unscored` where there are too few explain windows."""
        own = bench.prototype(view.feature)
        if own is None:
            raise Unscored("too few windows of the explain documents hold the feature, at least 2 are needed")
        prototypes = np.stack([own, *bench.other_prototypes(view.feature, self.nulls)])
        up, down = (prototypes @ bench.embedder.texts(part.words).T for part in (view.positives, view.negatives))
        return Ranking(up=up, down=down, facts={"model": bench.embedder.name})
