"""Simulation: a language model reads the label and foretells the feature's activation at every token of held-out texts (Bills et al. 2023).

Pearson correlation of what it foretells, 0 to 10, with the size of the activation, over all tokens of the windows. A window whose answer
cannot be read counts as foretold to be silent where it fires, and active where it does not.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from saelab.errors import Unscored
from saelab.features.excerpts import thinned
from saelab.features.views import ScoreView, Windows
from saelab.records import Label, Score
from saelab.scorers.asking import Asking, numbers
from saelab.scorers.base import SCORERS, Bench
from saelab.scorers.metrics import correlations
from saelab.values import value

PROMPT = """You foretell a feature of a language model. You are given a label, which says what the feature is active on, and the numbered \
tokens of a text. For each token give a number from 0 to 10: how active the feature is at this token, 0 where it is silent. Most tokens \
are \
0. Answer with a JSON array with one number for each token and nothing else."""


@SCORERS.register("simulation")
@value
class Simulation(Asking):
    """Scores a label by how well a language model foretells the activations from it."""

    windows: int = 6
    """Windows of either side that are shown, one a question."""

    @property
    def metric(self) -> str:
        """The headline: Pearson correlation."""
        return "pearson"

    def score(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> tuple[Score, ...]:
        """The correlation, with null and lift. Raises `Unscored`."""
        if label is None or not label.input_clause:
            raise Unscored("the label does not say what the feature fires on")
        self.need_windows(view)
        view = thinned(view, self.windows, self.seed)
        both = (view.positives, view.negatives)
        labels = (label, *(nulls if len(nulls) >= self.min_nulls else []))
        said = [[self._foretold(item, part, row) for part in both for row in range(len(part))] for item in labels]
        actual, counted = (np.concatenate(parts) for parts in zip(*((np.abs(part.values), part.counted) for part in both), strict=True))
        wrong = np.where(actual > 0, 0.0, 10.0)
        foretold = np.array([[wrong[row] if one is None else one for row, one in enumerate(answers)] for answers in said])
        drawn = self.document_draws(np.concatenate([part.document for part in both]), view.feature)
        found = correlations(drawn, foretold, actual, counted)
        return (self.lifted("pearson", found, view, **self.facts(PROMPT, said[0])),)

    def _foretold(self, label: Label, windows: Windows, row: int) -> Float[np.ndarray, " pos"] | None:
        """Activations foretold for one window; 0 at tokens that do not count; none where the answer cannot be read."""
        columns = np.flatnonzero(windows.counted[row])
        strings = windows.texts.vocabulary.strings
        tokens = "\n".join(f"{n}. {strings[token]!r}" for n, token in enumerate(windows.texts.ids[row, columns].tolist(), 1))
        asked = f"Label: {label.input_clause}\n\nTokens:\n{tokens}\n\nAnswer with a JSON array of {len(columns)} numbers and nothing else."
        found = numbers(self.chat.ask([{"role": "system", "content": PROMPT}, {"role": "user", "content": asked}]), len(columns))
        if found is None:
            return None
        made = np.zeros(windows.counted.shape[1])
        made[columns] = [number or 0.0 for number in found]
        return made
