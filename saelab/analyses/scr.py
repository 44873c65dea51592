"""SCR, spurious correlation removal: does a probe forget a wrong attribute when the features of that attribute are taken away?

See `saelab/analyses/spurious.py` for the score. The n features of largest |e_f| on a probe of the unwanted attribute are set to 0 on every
token, the rest of the activation is kept, and the biased probe answers again. Karvonen et al. 2024, https://arxiv.org/abs/2411.18895;
SAEBench, https://arxiv.org/abs/2503.09532. Beside it the same with each code's mean in place of 0, which leaves the probe's threshold
where it was (`saelab/analyses/ablation.py`).

Null: as many random features that fire. Controls, chosen as the features are: random directions, and the activation's own dimensions.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from saelab.analyses.ablation import TO, To, strongest
from saelab.analyses.attributes import TextsFrom, attributes
from saelab.analyses.base import ANALYSES
from saelab.analyses.means import OWN
from saelab.analyses.spurious import NOTE, Biased, Pairwise, Scores, learn
from saelab.errors import Invalid
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.reports import Cell, Chart, Measure, Report, Series, Table
from saelab.values import value

NULL = "as many random features"


@ANALYSES.register("scr")
@value
class SCR(Pairwise):
    """Experimental: how much of a probe's bias goes when the features of the unwanted attribute are taken away."""

    texts_from: TextsFrom = "auto"
    """sae-probes: texts that two of its tasks label. corpus: windows of the run, domain × what occurs in them. auto: the first if there."""
    pairs: int = 4
    """Pairs of attributes, those with most texts first."""
    n: tuple[int, ...] = (2, 5, 10, 20, 50, 100, 500)
    """How many features are taken away; numbers above that of the features which fire are left out."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `Invalid` where no pair of attributes has enough texts, or none is learnt wrongly."""
        self.check()
        if not self.n or min(self.n) < 1:
            raise Invalid("Each n must be 1 or more.")
        found = attributes(lab, self.texts_from, self.max_tokens, self.seed)
        pairs = found.pairs(self.pairs, self.least)
        if not pairs:
            raise Invalid(f"No two attributes have {self.least} texts of each combination on both sides. Read more text, or lower least.")
        every = learn(lab, self, found, pairs)
        kept = [pair for pair in every if pair.gap >= self.min_gap]
        if not kept:
            raise Invalid("No probe learnt the wrong attribute of a pair, so nothing can be removed. Ask for more pairs.")
        if not self._numbers(kept, OWN):
            raise Invalid(f"Fewer than {min(self.n)} features fire on the texts. Ask for fewer with --n.")
        scores = Scores(kept, self.seed)
        grid, null = self._grid(kept, scores)
        measures = tuple(
            Measure(name=f"scr{'' if to == 'zero' else '_mean'}_n{n}", estimate=grid[OWN, to][n], null=null[to][n], null_is=NULL)
            for to in TO
            for n in grid[OWN, to]
        )
        dropped = [f"{pair.unwanted} with {pair.wanted} (gap {pair.gap:.2f})" for pair in every if pair.gap < self.min_gap]
        notes = (NOTE, *((f"Left out, for the probe is not biased: {', '.join(dropped)}.",) if dropped else ()))
        return Report(
            question="How much of a probe's bias goes with the features of the unwanted attribute?",
            experimental=True,
            measures=measures,
            tables=(self._table(grid), self._pairs(kept, scores, tuple(grid[OWN, "zero"]))),
            charts=(_chart(grid, null),),
            notes=notes,
        )

    def _grid(
        self, pairs: Sequence[Biased], scores: Scores
    ) -> tuple[dict[tuple[str, To], dict[int, Estimate]], dict[To, dict[int, Estimate]]]:
        """Scores of each dictionary by number of features, and those of random features."""
        grid: dict[tuple[str, To], dict[int, Estimate]] = {(kind, to): {} for kind in pairs[0].sets for to in TO}
        for (kind, to), row in grid.items():
            for n in self._numbers(pairs, kind):
                row[n] = scores.score([pair.right(_without(pair, kind, n, to)) for pair in pairs])
        null: dict[To, dict[int, Estimate]] = {to: {} for to in TO}
        for to in TO:
            for n in grid[OWN, to]:
                null[to][n] = scores.score([at_random(pair, n, to, self.draws, self.seed) for pair in pairs])
        return grid, null

    def _numbers(self, pairs: Sequence[Biased], kind: str) -> list[int]:
        return [n for n in self.n if n <= min(len(pair.sets[kind].alive) for pair in pairs)]

    def _table(self, grid: dict[tuple[str, To], dict[int, Estimate]]) -> Table:
        rows: list[tuple[Cell, ...]] = [(kind, to, *(row.get(n) for n in self.n)) for (kind, to), row in grid.items()]
        return Table(title="SCR by dictionary and what features are set to", columns=("of", "to", *map(str, self.n)), rows=tuple(rows))

    def _pairs(self, pairs: Sequence[Biased], scores: Scores, numbers: tuple[int, ...]) -> Table:
        """Accuracies of each pair, without features those of the most that were taken away."""
        most = max(numbers)
        levels = [scores.base, scores.oracle]
        levels += [scores.accuracies([pair.right(_without(pair, OWN, most, to)) for pair in pairs]) for to in TO]
        rows: list[tuple[Cell, ...]] = [
            (pair.wanted, pair.unwanted, len(pair.positive), *(float(one[0, number]) for one in levels))
            for number, pair in enumerate(pairs)
        ]
        columns = ("wanted", "unwanted", "texts", "base", "oracle", *(f"{to} {most}" for to in TO))
        return Table(title="Accuracy on the wanted attribute", columns=columns, rows=tuple(rows))


def at_random(pair: Biased, n: int, to: To, draws: int, seed: int) -> Float[np.ndarray, " text"]:
    """How often the biased probe is right on each text without n random features, over draws of them."""
    tests = pair.sets[OWN]
    return np.mean([pair.right(tests.without(features, to)) for features in tests.some(n, draws, seed)], axis=0)


def _without(pair: Biased, kind: str, n: int, to: To) -> Float[np.ndarray, "text probe"]:
    return pair.sets[kind].without(strongest(pair.effects[kind], n), to)


def _chart(grid: dict[tuple[str, To], dict[int, Estimate]], null: dict[To, dict[int, Estimate]]) -> Chart:
    named = {f"{kind}, {to}": row for (kind, to), row in grid.items()} | {f"control random features, {to}": row for to, row in null.items()}
    series = tuple(curve(name, row) for name, row in named.items())
    return Chart(title="SCR", kind="line", x="features taken away", y="share of the gap closed", series=series)


def curve(name: str, row: dict[int, Estimate]) -> Series:
    """A line over the number of features, with intervals."""
    points = list(row.values())
    return Series(
        name=name,
        x=tuple(map(float, row)),
        y=tuple(one.value for one in points),
        low=tuple(one.low for one in points),
        high=tuple(one.high for one in points),
    )
