"""What `scr` and `shift` share: a probe that learnt the wrong attribute, and how well it does once features are taken away.

On training texts where two attributes always come together, a probe learns both or the easier one. On texts of all four combinations,
equally many of each, its accuracy A_base on the wanted attribute lies below that of a probe that learnt from as many such texts, A_oracle.

    score = Σ_pairs (A_without - A_base) / Σ_pairs (A_oracle - A_base)        1: as good as the oracle; 0: nothing gained; < 0: worse

Pairs are weighed by what there is to gain, so that none with a gap near 0 can run away with the mean. A pair whose gap is below `min_gap`
is left out, by probes that learn from one half of the training texts and are tried on the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from saelab.analyses.ablation import Ablation, Accuracies, ablation, effects, probe
from saelab.analyses.attributes import Attributes
from saelab.analyses.base import Analysis
from saelab.analyses.logistic import Model
from saelab.analyses.means import Means, dictionaries_of, means_of
from saelab.analyses.ranking import estimated
from saelab.errors import Invalid
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.values import value

BIASED, UNWANTED = 0, 1
"""The probes of an `Ablation` here: the one that learnt both attributes together, and one of the unwanted attribute."""
Right = Float[np.ndarray, " text"] | Bool[np.ndarray, " text"]
"""Where a probe is right; over several draws of features, how often."""
_TINY = 0.02
NOTE = (
    "Experimental: scores of this kind rank dictionaries unreliably (arXiv 2605.18229), and frozen random dictionaries come close to "
    "trained ones (arXiv 2602.14111). Read the null and the controls first; do not choose a dictionary by it."
)


@value
class Pairwise(Analysis):
    """Abstract: what analyses of pairs of attributes take."""

    rows: int = 60
    """Texts of each of the four combinations, on either side, at most."""
    least: int = 12
    """Texts that each combination must have on both sides."""
    max_tokens: int = 128
    """Tokens that are read of a text of `sae-probes`, its last ones; windows of the corpus are read whole."""
    draws: int = 5
    """Draws of random features behind the null."""
    min_gap: float = 0.05
    """Accuracy by which a biased probe must fall short of the oracle, from one half of the training texts to the other."""

    def check(self) -> None:
        """Raises `Invalid` for settings that cannot be."""
        if self.least < 4 or self.rows < self.least or self.draws < 1:
            raise Invalid("least must be 4 or more, rows no less than least, and draws 1 or more.")


@dataclass(frozen=True)
class Biased:
    """A probe that learnt two attributes together, and what is needed to take features away from it."""

    wanted: str
    """The attribute that it is tested on."""
    unwanted: str
    """The one that always came with it."""
    gap: float
    """How far a probe like it falls short of the oracle on half of the training texts, where both learnt from the other half."""
    positive: Bool[np.ndarray, " text"]
    """Which test texts have the wanted attribute."""
    misled: Bool[np.ndarray, " text"]
    """Which test texts have the unwanted one."""
    group: Int[np.ndarray, " text"]
    """What the test texts are resampled with."""
    oracle: Bool[np.ndarray, " text"]
    """Where the oracle is right."""
    sets: dict[str, Ablation]
    """The test texts for each dictionary; their probes are `BIASED` and `UNWANTED`."""
    effects: dict[str, Float[np.ndarray, " feature"]]
    """|e_f| of each feature of each dictionary on the unwanted attribute's probe."""

    def right(self, answers: Float[np.ndarray, "text probe"]) -> Bool[np.ndarray, " text"]:
        """Where the biased probe is right by some answers."""
        return (answers[:, BIASED] > 0) == self.positive

    def worst(self, right: Right, seed: int) -> Float[np.ndarray, " draw"]:
        """Accuracy on that of the four combinations on which it is lowest, on all documents and on draws of them."""
        combinations = [(self.positive == a) & (self.misled == b) for a in (True, False) for b in (True, False)]
        found = Accuracies(self.group, np.stack(combinations, axis=1), seed).of(right[:, None].astype(float))
        return found[:, int(found[0].argmin())]


def learnt(
    means: Means,
    answers: Bool[np.ndarray, "text 2"],
    names: tuple[str, str],
    sides: tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]],
    group: Int[np.ndarray, " text"],
    wanted: int | None = None,
) -> Biased:
    """The biased probe of two attributes, its oracle, and the features' effects; all learnt from training texts.

    Arguments:
    - `answers`: whether each text has each of the two.
    - `sides`: training and test texts, as `Attributes.balanced` gives them.
    - `wanted`: which of the two; none for the one that the probe follows less on training texts where they differ.
    """
    train, test = sides
    differ = answers[:, 0] != answers[:, 1]
    agree, apart, halves = train[~differ[train]], train[differ[train]], (train[::2], train[1::2])
    biased = probe(means.x[agree], answers[agree, 0])
    if wanted is None:
        wanted = int(_share(biased, means, apart, answers[:, 0]) >= 0.5)
    asked, other = answers[:, wanted], answers[:, 1 - wanted]
    oracle, unwanted = probe(means.x[halves[0]], asked[halves[0]]), probe(means.x[train], other[train])
    tried = halves[0][~differ[halves[0]]]
    gap = _share(oracle, means, halves[1], asked) - _share(probe(means.x[tried], asked[tried]), means, halves[1], asked)
    sets = {name: ablation(means.x, codes, means.directions[name], [biased, unwanted], train, test) for name, codes in means.codes.items()}
    return Biased(
        wanted=names[wanted],
        unwanted=names[1 - wanted],
        gap=gap,
        positive=asked[test],
        misled=other[test],
        group=group[test],
        oracle=(oracle.scores(means.x[test]) > 0) == asked[test],
        sets=sets,
        effects={name: np.abs(effects(means.codes[name][train], other[train], one.pulls[:, UNWANTED])) for name, one in sets.items()},
    )


def _share(model: Model, means: Means, texts: Int[np.ndarray, " some"], positive: Bool[np.ndarray, " text"]) -> float:
    return float(((model.scores(means.x[texts]) > 0) == positive[texts]).mean())


def learn(lab: Lab, config: Pairwise, found: Attributes, pairs: Sequence[tuple[int, int]], fixed: bool = False) -> list[Biased]:
    """The biased probe of each pair, whether its gap is wide enough or not; of `fixed` pairs the first attribute is the wanted one."""
    sides = [tuple(found.balanced(pair, config.rows, test, config.seed) for test in (False, True)) for pair in pairs]
    texts = np.unique(np.concatenate([side for both in sides for side in both]))
    means = means_of(found.read(texts), len(texts), dictionaries_of(lab, config.seed))
    answers, group = found.answers[texts] == 1, found.group[texts]
    return [
        learnt(
            means,
            answers[:, list(pair)],
            (found.names[pair[0]], found.names[pair[1]]),
            (np.searchsorted(texts, both[0]), np.searchsorted(texts, both[1])),
            group,
            0 if fixed else None,
        )
        for pair, both in zip(pairs, sides, strict=True)
    ]


class Scores:
    """Accuracies and scores over some pairs together, with their intervals.

    Arguments:
    - `pairs`: at least one.
    - `seed`: of the bootstrap over documents.

    Raises `Invalid` where the oracle is no better than the biased probe on the test texts.
    """

    def __init__(self, pairs: Sequence[Biased], seed: int) -> None:
        sizes = [len(pair.positive) for pair in pairs]
        asked = np.repeat(np.eye(len(pairs), dtype=bool), sizes, axis=0)
        self._accuracies = Accuracies(np.concatenate([pair.group for pair in pairs]), asked, seed)
        self.n = self._accuracies.n
        self.base = self.accuracies([pair.right(next(iter(pair.sets.values())).answers) for pair in pairs])
        self.oracle = self.accuracies([pair.oracle for pair in pairs])
        self._room = (self.oracle - self.base).sum(1)
        if self._room[0] < _TINY * len(pairs):
            raise Invalid("The biased probes do as well as the oracle on the test texts: there is nothing to gain. Give more texts.")

    def accuracies(self, right: Sequence[Right]) -> Float[np.ndarray, "draw pair"]:
        """Accuracy of each pair on all documents and on draws of them."""
        return self._accuracies.of(np.concatenate(right)[:, None].astype(float))

    def score(self, right: Sequence[Right]) -> Estimate:
        """The share of the gap that is closed."""
        gained = (self.accuracies(right) - self.base).sum(1)
        wide = self._room >= _TINY * self.base.shape[1]
        return estimated(np.where(wide, gained / np.where(wide, self._room, 1.0), np.nan), self.n)
