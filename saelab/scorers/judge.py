"""Judge: which of two labels fits the held-out examples? A language model sees marked examples and, in either order, the label and one of
another feature.

Share of right choices; a half is luck, and so the null. Each pair is asked both ways round, so that a liking for the first answer gains
nothing. An answer that names neither is wrong.
"""

import re
from collections.abc import Sequence

import numpy as np

from saelab.errors import Unscored
from saelab.features.excerpts import lines, strong, thinned
from saelab.features.views import ScoreView
from saelab.records import Label, Score
from saelab.scorers.asking import Asking
from saelab.scorers.base import SCORERS, Bench
from saelab.values import value

PROMPT = """You judge labels of features of a language model. You are given texts in which one feature is active, the tokens at which \
it is \
strongest between << and >>, and two labels, A and B. Say which label describes better what the feature is active on. Answer with one \
letter, A or B, and nothing else. Each ⏎ is a line break."""

_LETTER = re.compile(r"\b([AB])\b")


@SCORERS.register("judge")
@value
class Judge(Asking):
    """Scores a label by how often a language model prefers it to labels of other features."""

    nulls: int = 4
    """Labels of other features that it is held against."""
    windows: int = 8
    """Examples that each question shows; no two questions show the same where there are enough."""

    @property
    def metric(self) -> str:
        """The headline: share of right choices."""
        return "preferred"

    def score(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> tuple[Score, ...]:
        """The share with its interval over pairs, and the lift over a half. Raises `Unscored` where there is nothing to hold it against."""
        if label is None or not label.input_clause:
            raise Unscored("the label does not say what the feature fires on")
        others = [other for other in nulls if other.input_clause]
        if len(others) < self.min_nulls:
            raise Unscored("there is no label of another feature to hold it against")
        self.need_windows(view)
        answers: list[str | None] = []
        for number, other in enumerate(others):
            shown = thinned(view, self.windows, self.seed + number).positives
            examples = "\n".join(lines(shown, strong(shown)))
            for own, letters in ((0, (label, other)), (1, (other, label))):
                asked = f"Texts:\n{examples}\n\nA: {letters[0].input_clause}\nB: {letters[1].input_clause}\n\nAnswer A or B."
                found = _LETTER.findall(self.chat.ask([{"role": "system", "content": PROMPT}, {"role": "user", "content": asked}]))
                answers.append(None if not found else "right" if found[-1] == "AB"[own] else "wrong")
        right = np.array([answer == "right" for answer in answers], np.float64).reshape(-1, 2).mean(1)
        drawn = self.document_draws(np.arange(len(right)), view.feature)
        shares = drawn @ right / drawn.sum(1)
        values = np.stack([shares, np.full(len(shares), 0.5)], axis=1)
        return (self.lifted("preferred", values, view, **{**self.facts(PROMPT, answers), "n": len(answers), "negatives": ()}),)
