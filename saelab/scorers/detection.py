"""Detection: a language model reads the label and says of each held-out text whether the feature fires in it (Paulo et al. 2024).

Windows in which it fires and in which it is silent are shuffled and look alike: no marks, the same length, the same place of the context.
The model gives 0 to 10, so that its doubts count. An answer that cannot be read ranks its windows on the wrong side.
"""

from collections.abc import Sequence

import numpy as np

from saelab.errors import Unscored
from saelab.features.excerpts import lines, thinned
from saelab.features.views import ScoreView
from saelab.records import Label
from saelab.scorers.asking import Asking
from saelab.scorers.base import SCORERS, Bench
from saelab.scorers.ranking import Ranked, Ranking
from saelab.values import value

PROMPT = """You test labels of features of a language model. You are given a label, which says what a feature is active on, and numbered \
texts. For each text give a number from 0 to 10: 10 if the text holds what the label describes, 0 if it does not, a number between if you \
are not sure. Judge each text alone, by the label and nothing else. Each ⏎ is a line break."""


@SCORERS.register("detection")
@value
class Detection(Asking, Ranked):
    """Scores a label by how well a language model tells, with nothing but the label, in which texts the feature fires."""

    shown = True

    windows: int = 25
    """Windows of either side that are shown."""

    def chosen(self, view: ScoreView) -> ScoreView:
        """A few of the windows."""
        return thinned(view, self.windows, self.seed)

    def rank(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> Ranking:
        """By the model's numbers. Raises `Unscored` for a label that says nothing."""
        if label is None or not label.input_clause:
            raise Unscored("the label does not say what the feature fires on")
        texts = [*lines(view.positives), *lines(view.negatives)]
        split, order = len(view.positives), np.random.default_rng((self.seed, view.feature)).permutation(len(texts))
        said = [self.ratings(PROMPT, item.input_clause, [texts[i] for i in order]) for item in (label, *nulls)]
        wrong = np.where(np.arange(len(texts)) < split, -1.0, 11.0)
        ranks = np.empty((len(said), len(texts)))
        for row, answers in enumerate(said):
            ranks[row, order] = [wrong[i] if answer is None else answer for i, answer in zip(order, answers, strict=True)]
        return Ranking(up=ranks[:, :split], down=ranks[:, split:], facts=self.facts(PROMPT, said[0]))
