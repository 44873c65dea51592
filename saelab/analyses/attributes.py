"""Texts with yes-or-no attributes, from which pairs of attributes and classes are drawn: the run's own windows, or texts of `sae-probes`.

A window of the corpus has the attribute `domain NAME` of its document, and each pattern of `saelab/analyses/lexicon.py` that occurs in it.
It is a text to learn from or to be tested on as its document is held out or not.

The tasks of `sae-probes` are attributes of their texts. A text of two tasks has both, which gives tables such as gender × occupation. Half
of the texts, drawn at random, are for the tests; the dictionary has seen none.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Int8
from scipy import sparse

from saelab.analyses.lexicon import CONCEPTS
from saelab.analyses.means import Part, text_parts, window_parts
from saelab.analyses.tasks import installed, read_task, task_names
from saelab.errors import unknown
from saelab.lab import Lab

TextsFrom = Literal["auto", "sae-probes", "corpus"]
"""Where texts come from; auto: `sae-probes` where that is installed."""
_WINDOWS = 3000
"""Windows of the corpus that are looked at, on either side."""


@dataclass(frozen=True)
class Attributes:
    """Texts, and which attributes each has."""

    names: tuple[str, ...]
    """The attributes."""
    answers: Int8[np.ndarray, "text attribute"]
    """1 yes, 0 no, -1 not known."""
    group: Int[np.ndarray, " text"]
    """What each text is resampled with: its document."""
    test: Bool[np.ndarray, " text"]
    """Which texts are for the tests."""
    leading: int
    """How many of the attributes, the first ones, are paired with the others alone; 0 where any two may be."""
    read: Callable[[Int[np.ndarray, " some"]], Iterator[Part]]
    """The rows of some of the texts, which count from 0 there."""

    def number(self, name: str) -> int:
        """Which attribute has that name. Raises `NotFound` with close names."""
        if name not in self.names:
            raise unknown("attribute", name, set(self.names))
        return self.names.index(name)

    def pairs(self, count: int, least: int) -> list[tuple[int, int]]:
        """Pairs of attributes whose four combinations all have `least` texts on both sides; largest first, no attribute twice."""
        sizes = np.minimum(*(self._smallest(side) for side in (self.test, ~self.test)))
        allowed = np.triu(np.ones_like(sizes, dtype=bool), 1)
        if self.leading:
            allowed[:, : self.leading] = allowed[self.leading :] = False
        sizes = np.where(allowed, sizes, 0)
        found: list[tuple[int, int]] = []
        while len(found) < count and sizes.max(initial=0) >= least:
            first, second = (int(i) for i in np.unravel_index(sizes.argmax(), sizes.shape))
            found.append((first, second))
            for used in (first, second):
                sizes[used] = sizes[:, used] = 0
        return found

    def _smallest(self, side: Bool[np.ndarray, " text"]) -> Int[np.ndarray, "attribute attribute"]:
        """Texts of the rarest combination of any two attributes."""
        yes, no = (sparse.csr_array(self.answers[side] == answer).astype(np.int32) for answer in (1, 0))
        counts = [(one.T @ other).toarray() for one in (yes, no) for other in (yes, no)]
        return np.min(counts, axis=0)

    def balanced(self, columns: tuple[int, int], rows: int, test: bool, seed: int) -> Int[np.ndarray, " some"]:
        """As many texts of each combination of two attributes, combination after combination, `rows` of each at most."""
        draw = np.random.default_rng((seed, test))
        side = self.test if test else ~self.test
        first, second = (self.answers[:, column] for column in columns)
        kinds = [draw.permutation(np.flatnonzero(side & (first == a) & (second == b))) for a in (1, 0) for b in (1, 0)]
        each = min(rows, *(len(kind) for kind in kinds))
        return np.concatenate([kind[:each] for kind in kinds])


def attributes(lab: Lab, texts_from: TextsFrom, max_tokens: int, seed: int) -> Attributes:
    """The texts of a run or of `sae-probes`. Raises `NotFound` where the latter are not installed."""
    if texts_from == "sae-probes" or (texts_from == "auto" and installed()):
        return _of_tasks(lab, max_tokens, seed)
    return _of_corpus(lab, seed)


def _of_corpus(lab: Lab, seed: int) -> Attributes:
    corpus, draw = lab.corpus, np.random.default_rng(seed)
    sides = [draw.permutation(np.flatnonzero(corpus.window_held_out == held_out))[:_WINDOWS] for held_out in (False, True)]
    windows = np.sort(np.concatenate(sides))
    domain = np.array([corpus.document(number).domain for number in corpus.window_document[windows]])
    names = tuple(str(name) for name in np.unique(domain))
    texts = ["".join(lab.subject.strings(corpus.window_tokens(window).tolist())) for window in windows]
    patterns = [np.array([any(True for _ in finder(text)) for text in texts]) for finder in CONCEPTS.values()]
    return Attributes(
        names=(*(f"domain {name}" for name in names), *CONCEPTS),
        answers=np.stack([*(domain == name for name in names), *patterns], axis=1).astype(np.int8),
        group=corpus.window_document[windows].astype(np.int64),
        test=corpus.window_held_out[windows],
        leading=len(names),
        read=lambda some: window_parts(lab, windows[some]),
    )


def _of_tasks(lab: Lab, max_tokens: int, seed: int) -> Attributes:
    names = task_names()
    tables = [read_task(name) for name in names]
    texts = sorted({text for found, _ in tables for text in found if text.strip()})
    place = {text: number for number, text in enumerate(texts)}
    answers = np.full((len(texts), len(names)), -1, np.int8)
    for column, (found, positive) in enumerate(tables):
        kept = [(place[text], yes) for text, yes in zip(found, positive.tolist(), strict=True) if text in place]
        rows, yes = zip(*kept, strict=True)
        answers[list(rows), column] = yes
    read = partial(_read, lab, texts, max_tokens)
    test = np.random.default_rng(seed).permutation(len(texts)) % 2 == 0
    return Attributes(names=tuple(names), answers=answers, group=np.arange(len(texts)), test=test, leading=0, read=read)


def _read(lab: Lab, texts: list[str], max_tokens: int, some: Int[np.ndarray, " some"]) -> Iterator[Part]:
    return text_parts(lab, [texts[number] for number in some], max_tokens)
