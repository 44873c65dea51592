"""TPP, targeted probe perturbation: do the features of one class change the probe of that class alone?

For each class i of several, a probe tells its texts from as many of the other classes. The n features of largest effect

    e_f = max(0, mean z_f with - mean z_f without) · (w · d_f)

are set to 0 on every token, and all probes answer again. With drop_i(j) the fall of the accuracy of the probe of class j,

    TPP = mean over i of [drop_i(i) - mean over j ≠ i of drop_i(j)]

0 where the features are no more one class's than another's, and no more than a half at best: an accuracy falls from 1 to chance.
SAEBench, https://arxiv.org/abs/2503.09532. Beside it the same with each code's mean in place of 0, which leaves the thresholds where they
were (`saelab/analyses/ablation.py`).

Null: as many random features that fire. Controls, chosen as the features are: random directions, and the activation's own dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from saelab.analyses.ablation import TO, Ablation, Accuracies, To, ablation, effects, probe, strongest
from saelab.analyses.attributes import Attributes, attributes
from saelab.analyses.base import ANALYSES, Analysis
from saelab.analyses.means import OWN, Means, dictionaries_of, means_of
from saelab.analyses.ranking import estimated
from saelab.analyses.scr import NULL, curve
from saelab.analyses.spurious import NOTE
from saelab.errors import Invalid
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.reports import Cell, Chart, Measure, Report, Table
from saelab.values import value

Drops = Float[np.ndarray, "draw taken asked"]
"""How far the accuracy of each probe falls without the features of each class, on all documents and on draws of them."""
_RANDOM = "control random features"


@ANALYSES.register("tpp")
@value
class TPP(Analysis):
    """Experimental: whether the features of one class change the probe of that class alone."""

    texts_from: Literal["corpus", "sae-probes"] = "corpus"
    """corpus: windows of the run, by domain. sae-probes: texts of its tasks, a class those that a task says yes to."""
    classes: tuple[str, ...] = ()
    """Three or more domains, or tasks such as 158_code_C 159_code_Python 160_code_HTML. Empty for all domains with enough texts."""
    rows: int = 100
    """Texts of each class, on either side, at most."""
    least: int = 12
    """Texts that a class must have on both sides."""
    max_tokens: int = 128
    """Tokens that are read of a text of `sae-probes`, its last ones; windows of the corpus are read whole."""
    n: tuple[int, ...] = (2, 5, 10, 20, 50, 100, 500)
    """How many features are taken away; numbers above that of the features which fire are left out."""
    draws: int = 5
    """Draws of random features behind the null."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `Invalid` for fewer than three classes with enough texts, `NotFound` for a class that there is not."""
        if not self.n or min(self.n) < 1 or self.rows < self.least or self.draws < 1:
            raise Invalid("Each n and draws must be 1 or more, and rows no less than least.")
        found = attributes(lab, self.texts_from, self.max_tokens, self.seed)
        names, texts, of_text = self._texts(found)
        means = means_of(found.read(texts), len(texts), dictionaries_of(lab, self.seed))
        classes = perturbed(means, of_text, found.test[texts], self.seed)
        if min(self.n) > len(classes.sets[OWN].alive):
            raise Invalid(f"Fewer than {min(self.n)} features fire on the texts. Ask for fewer with --n.")
        accuracies = Accuracies(found.group[texts][found.test[texts]], classes.asked, self.seed)
        grid = self._grid(classes, accuracies)
        clean = accuracies.of(classes.right(classes.sets[OWN].answers))
        kinds = tuple(dict.fromkeys(kind for kind, _ in grid))
        rows: list[tuple[Cell, ...]] = [(kind, to, *(_tpp(grid, kind, to, n, accuracies.n) for n in self.n)) for kind in kinds for to in TO]
        return Report(
            question="Do the features of one class change the probe of that class alone?",
            experimental=True,
            measures=self._measures(grid, accuracies.n),
            tables=(
                Table(title="TPP by dictionary and what features are set to", columns=("of", "to", *map(str, self.n)), rows=tuple(rows)),
                _classes(names, clean, {n: drop for n in self.n if (drop := grid[OWN, "zero"].get(n)) is not None}),
            ),
            charts=(_chart(grid, accuracies.n),),
            notes=(NOTE, "At best 0.5: an accuracy falls from 1 to chance."),
        )

    def _texts(self, found: Attributes) -> tuple[list[str], Int[np.ndarray, " text"], Int[np.ndarray, " text"]]:
        """Names of the classes, texts of both sides in rising order, and the class of each; texts of several classes are left out."""
        given = [f"domain {name}" if self.texts_from == "corpus" else name for name in self.classes] or found.names[: found.leading]
        columns = [found.number(name) for name in given]
        answers, draw = found.answers[:, columns] == 1, np.random.default_rng(self.seed)
        single = answers.sum(1) == 1
        sides = [
            [draw.permutation(np.flatnonzero(one & single & side))[: self.rows] for side in (found.test, ~found.test)] for one in answers.T
        ]
        kept = [number for number, both in enumerate(sides) if min(map(len, both)) >= self.least]
        few = [name for number, name in enumerate(given) if number not in kept]
        if len(kept) < 3 or (few and self.classes):
            raise Invalid(
                f"TPP needs three classes or more, each with {self.least} texts on both sides. Too few have: {', '.join(few) or 'none'}. "
                "Read more text, lower least, or name other classes with --classes."
            )
        texts = np.sort(np.concatenate([side for number in kept for side in sides[number]]))
        return [given[number] for number in kept], texts, answers[texts][:, kept].argmax(1)

    def _grid(self, classes: "Perturbed", accuracies: Accuracies) -> "Grid":
        """Drops for each dictionary by number of features, and for random features the mean over draws."""
        grid: Grid = {(kind, to): {} for kind in (*classes.sets, _RANDOM) for to in TO}
        for (kind, to), row in grid.items():
            tests = classes.sets[OWN if kind == _RANDOM else kind]
            for n in (n for n in self.n if n <= len(tests.alive)):
                if kind == _RANDOM:
                    some = [tests.some(n, classes.asked.shape[1], self.seed + draw) for draw in range(self.draws)]
                    row[n] = np.mean([drops(classes, accuracies, OWN, features, to) for features in some], axis=0)
                else:
                    row[n] = drops(classes, accuracies, kind, [strongest(effect, n) for effect in classes.effects[kind].T], to)
        return grid

    def _measures(self, grid: "Grid", documents: int) -> tuple[Measure, ...]:
        parts: dict[str, tuple[Callable[[Drops], Float[np.ndarray, " draw"]], To]] = {
            "tpp": (targeted, "zero"),
            "tpp_mean": (targeted, "mean"),
            "tpp_intended": (intended, "zero"),
            "tpp_unintended": (unintended, "zero"),
        }
        return tuple(
            Measure(
                name=f"{name}_n{n}",
                estimate=estimated(of(grid[OWN, to][n]), documents),
                null=estimated(of(grid[_RANDOM, to][n]), documents),
                null_is=NULL,
            )
            for name, (of, to) in parts.items()
            for n in grid[OWN, "zero"]
        )


Grid = dict[tuple[str, To], dict[int, Drops]]
"""Drops by dictionary, what features are set to, and how many."""


@dataclass(frozen=True)
class Perturbed:
    """A probe for each class, and what is needed to take features away from them."""

    positive: Bool[np.ndarray, "text class"]
    """The class of each test text."""
    asked: Bool[np.ndarray, "text class"]
    """Which test texts each probe is asked about: all of its class, and as many others."""
    sets: Mapping[str, Ablation]
    """The test texts for each dictionary."""
    effects: Mapping[str, Float[np.ndarray, "feature class"]]
    """e_f of each feature of each dictionary on each probe."""

    def right(self, answers: Float[np.ndarray, "text class"]) -> Bool[np.ndarray, "text class"]:
        """Where each probe is right by some answers."""
        return (answers > 0) == self.positive


def perturbed(means: Means, of_text: Int[np.ndarray, " text"], test: Bool[np.ndarray, " text"], seed: int) -> Perturbed:
    """The probes of classes that are numbered from 0, learnt from the texts that are not for the test."""
    draw = np.random.default_rng(seed)
    numbers = range(int(of_text.max()) + 1)
    train = [_contrast(of_text, ~test, number, draw) for number in numbers]
    asked = np.stack([np.isin(np.flatnonzero(test), _contrast(of_text, test, number, draw)) for number in numbers], axis=1)
    probes = [probe(means.x[texts], of_text[texts] == number) for number, texts in zip(numbers, train, strict=True)]
    sides = np.flatnonzero(~test), np.flatnonzero(test)
    sets = {name: ablation(means.x, codes, means.directions[name], probes, *sides) for name, codes in means.codes.items()}
    found: dict[str, np.ndarray] = {}
    for name, one in sets.items():
        columns = [
            effects(means.codes[name][texts], of_text[texts] == number, one.pulls[:, number], above=True)
            for number, texts in zip(numbers, train, strict=True)
        ]
        found[name] = np.stack(columns, axis=1)
    return Perturbed(positive=of_text[test][:, None] == np.array(numbers), asked=asked, sets=sets, effects=found)


def _contrast(
    of_text: Int[np.ndarray, " text"], side: Bool[np.ndarray, " text"], number: int, draw: np.random.Generator
) -> Int[np.ndarray, " some"]:
    """The texts of a class on one side, and as many random others there."""
    own, others = (np.flatnonzero(side & kind) for kind in (of_text == number, of_text != number))
    return np.concatenate([own, draw.permutation(others)[: len(own)]])


def drops(classes: Perturbed, accuracies: Accuracies, kind: str, features: Sequence[Int[np.ndarray, " n"]], to: To) -> Drops:
    """How far each accuracy falls without the features of each class."""
    tests = classes.sets[kind]
    clean = accuracies.of(classes.right(tests.answers))
    return np.stack([clean - accuracies.of(classes.right(tests.without(one, to))) for one in features], axis=1)


def intended(drop: Drops) -> Float[np.ndarray, " draw"]:
    """Mean fall of a class's own probe."""
    return np.einsum("dii->di", drop).mean(1)


def unintended(drop: Drops) -> Float[np.ndarray, " draw"]:
    """Mean fall of the probes of other classes."""
    count = drop.shape[1]
    return (drop.sum((1, 2)) - np.einsum("dii->d", drop)) / (count * (count - 1))


def targeted(drop: Drops) -> Float[np.ndarray, " draw"]:
    """TPP."""
    return intended(drop) - unintended(drop)


def _tpp(grid: Grid, kind: str, to: To, n: int, documents: int) -> Estimate | None:
    drop = grid[kind, to].get(n)
    return None if drop is None else estimated(targeted(drop), documents)


def _classes(names: Sequence[str], clean: Float[np.ndarray, "draw class"], own: Mapping[int, Drops]) -> Table:
    """What each class's probe loses by its own features and by those of the others, set to 0."""
    others = len(names) - 1
    rows: list[tuple[Cell, ...]] = []
    for number, name in enumerate(names):
        falls = [(float(drop[0, number, number]), float(np.delete(drop[0, :, number], number).sum() / others)) for drop in own.values()]
        rows.append((name, float(clean[0, number]), *(fall for both in falls for fall in both)))
    columns = ("class", "accuracy", *(f"{by} {n}" for n in own for by in ("own", "others'")))
    return Table(title="How far the accuracy of each probe falls", columns=columns, rows=tuple(rows))


def _chart(grid: Grid, documents: int) -> Chart:
    series = tuple(
        curve(f"{kind}, {to}", {n: estimated(targeted(drop), documents) for n, drop in row.items()}) for (kind, to), row in grid.items()
    )
    return Chart(title="TPP", kind="line", x="features taken away", y="TPP", series=series)
