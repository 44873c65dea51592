"""Intruder: do the feature's windows belong together? Four of like strength and one in which it is silent: which is the odd one?

Share of groups in which the odd one is found (Chang et al. 2009; for features Puri et al. 2025, arXiv 2507.08473); one in five is luck, and
so the null. No label is needed. `intruder` takes the window that is least like the others by embeddings; `intruder_chat` asks a language
model.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from saelab.errors import Unscored
from saelab.features.excerpts import lines
from saelab.features.views import ScoreView
from saelab.records import Label, Score
from saelab.scorers.asking import Asking
from saelab.scorers.base import SCORERS, Bench, Scorer
from saelab.values import value

PROMPT = """You are given five numbered texts. Four of them have something in common: a topic, a word, a form, a manner of writing. One \
has \
not. Answer with the number of the text that does not belong, and nothing else. Each ⏎ is a line break."""

_SIZE = 5
_NUMBER = re.compile(r"\b([1-5])\b")


@value
class OddOneOut(Scorer):
    """Abstract: a scorer that looks for the odd window in groups."""

    of_label = False

    groups: int = 40
    """Groups that are looked at."""

    @property
    def metric(self) -> str:
        """The headline: share of groups in which the odd one is found."""
        return "accuracy"

    @abstractmethod
    def picked(self, groups: Sequence[Sequence[str]], bench: Bench) -> tuple[list[int | None], dict[str, Any]]:
        """Which text of each group is thought to be odd (none where the answer cannot be read), and facts of the score."""

    def score(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> tuple[Score, ...]:
        """The share with its interval over groups, and its lift over luck. Raises `Unscored` for fewer than four windows."""
        self.need_windows(view)
        if len(view.positives) < _SIZE - 1:
            raise Unscored(f"only {len(view.positives)} windows of the score documents hold the feature, at least {_SIZE - 1} are needed")
        groups, odd = self._groups(view)
        picked, facts = self.picked(groups, bench)
        right = np.array([one == other for one, other in zip(picked, odd, strict=True)], np.float64)
        drawn = self.document_draws(np.arange(len(right)), view.feature)
        shares = drawn @ right / drawn.sum(1)
        values = np.stack([shares, np.full(len(shares), 1 / _SIZE)], axis=1)
        return (self.lifted("accuracy", values, view, **{**facts, "n": len(right)}),)

    def _groups(self, view: ScoreView) -> tuple[list[list[str]], list[int]]:
        """Groups of texts, and the place of the odd one in each. The odd ones are of all kinds of negatives alike."""
        random = np.random.default_rng((self.seed, view.feature))
        up, down = lines(view.positives), lines(view.negatives)
        step = max(1, len(down) // self.groups)
        order = np.argsort(view.positives.strength, kind="stable")
        groups: list[list[str]] = []
        odd: list[int] = []
        for number in range(self.groups):
            begin = int(random.integers(0, len(order) - (_SIZE - 1) + 1))
            group = [up[i] for i in order[begin : begin + _SIZE - 1]]
            place = int(random.integers(_SIZE))
            group.insert(place, down[number * step % len(down)])
            groups.append(group)
            odd.append(place)
        return groups, odd


@SCORERS.register("intruder")
@value
class Intruder(OddOneOut):
    """Looks for the odd window by embeddings. Its model says which: `minilm`, or `hashed` without it."""

    def picked(self, groups: Sequence[Sequence[str]], bench: Bench) -> tuple[list[int | None], dict[str, Any]]:
        """The text least like the others of its group."""
        found: list[int | None] = []
        for group in groups:
            vectors = bench.embedder.texts(group)
            found.append(int((vectors @ vectors.sum(0) - (vectors * vectors).sum(1)).argmin()))
        return found, {"model": bench.embedder.name}


@SCORERS.register("intruder_chat")
@value
class IntruderChat(Asking, OddOneOut):
    """Asks a language model for the odd window."""

    groups: int = 10
    """Groups that are looked at, one a question."""

    def picked(self, groups: Sequence[Sequence[str]], bench: Bench) -> tuple[list[int | None], dict[str, Any]]:
        """The number that the model answers."""
        found: list[int | None] = []
        for group in groups:
            asked = "\n".join(f"{number}. {text}" for number, text in enumerate(group, 1))
            answer = self.chat.ask([{"role": "system", "content": PROMPT}, {"role": "user", "content": asked}])
            named = _NUMBER.findall(answer)
            found.append(int(named[-1]) - 1 if named else None)
        return found, self.facts(PROMPT, found)
