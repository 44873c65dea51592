"""Fuzzing: a language model reads the label and says of each held-out text whether the marked tokens are those it describes (Paulo et
al. 2024).

Every text is one in which the feature fires. Half of them have the marks where it fires, the others where it is silent, at the columns at
which another window is marked: number and place of the marks tell nothing.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from saelab.errors import Unscored
from saelab.features.excerpts import lines, strong, taken, thinned
from saelab.features.views import ScoreView, Windows
from saelab.records import Label
from saelab.scorers.asking import Asking
from saelab.scorers.base import SCORERS, Bench
from saelab.scorers.ranking import Ranked, Ranking, Sides
from saelab.values import value

PROMPT = """You test labels of features of a language model. You are given a label, which says what a feature is active on, and numbered \
texts with some tokens between << and >>. For each text give a number from 0 to 10: 10 if the marked tokens are what the label \
describes, 0 \
if they are not, a number between if you are not sure. Only the marked tokens count, read in their context. Each ⏎ is a line break."""


@SCORERS.register("fuzzing")
@value
class Fuzzing(Asking, Ranked):
    """Scores a label by how well a language model tells the tokens at which the feature fires from others of the same windows."""

    windows: int = 25
    """Windows with right marks, and with wrong ones."""

    def chosen(self, view: ScoreView) -> ScoreView:
        """Twice as many windows in which the feature fires."""
        return thinned(view, 2 * self.windows, self.seed)

    def sides(self, view: ScoreView) -> Sides:
        """Every other window in which it fires, and the rest with wrong marks."""
        right, wrong = _halves(view.positives)
        return Sides(right.document, wrong.document, ("wrong_marks",) * len(wrong), right.strength)

    def rank(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> Ranking:
        """By the model's numbers. Raises `Unscored` for a label that says nothing."""
        if label is None or not label.input_clause:
            raise Unscored("the label does not say what the feature fires on")
        right, wrong = _halves(view.positives)
        texts = [*lines(right, strong(right)), *lines(wrong, _moved(wrong, strong(right)))]
        split, order = len(right), np.random.default_rng((self.seed, view.feature)).permutation(len(texts))
        said = [self.ratings(PROMPT, item.input_clause, [texts[i] for i in order]) for item in (label, *nulls)]
        failed = np.where(np.arange(len(texts)) < split, -1.0, 11.0)
        ranks = np.empty((len(said), len(texts)))
        for row, answers in enumerate(said):
            ranks[row, order] = [failed[i] if answer is None else answer for i, answer in zip(order, answers, strict=True)]
        return Ranking(up=ranks[:, :split], down=ranks[:, split:], facts=self.facts(PROMPT, said[0]))


def _halves(windows: Windows) -> tuple[Windows, Windows]:
    rows = np.arange(len(windows))
    return taken(windows, rows[::2]), taken(windows, rows[1::2])


def _moved(windows: Windows, marks: Bool[np.ndarray, "other pos"]) -> Bool[np.ndarray, "window pos"]:
    """Marks of other windows put on these, moved to the nearest token at which the feature is silent."""
    moved = np.zeros(windows.counted.shape, np.bool_)
    for row in range(len(windows)):
        silent = np.flatnonzero(windows.counted[row] & (windows.values[row] == 0))
        for column in np.flatnonzero(marks[row % len(marks)]):
            left = silent[~moved[row, silent]]
            if len(left):
                moved[row, left[np.abs(left - column).argmin()]] = True
    return moved
