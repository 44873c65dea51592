"""SHIFT: the bias of a probe, once features are taken away that a human judged to be irrelevant to what it is for.

The same score as `scr` (`saelab/analyses/spurious.py`) with features that are given: look through the dashboard for those of the unwanted
attribute, and give their numbers. Marks et al. 2024, "Sparse feature circuits", https://arxiv.org/abs/2403.19647, where the
features shown to the human are those of largest effect on the probe; the table lists as many here.

Null: as many random features that fire.
"""

from collections.abc import Mapping

import numpy as np

from saelab.analyses.ablation import TO, strongest
from saelab.analyses.attributes import TextsFrom, attributes
from saelab.analyses.base import ANALYSES
from saelab.analyses.means import OWN
from saelab.analyses.ranking import estimated
from saelab.analyses.scr import NULL, at_random
from saelab.analyses.spurious import NOTE, UNWANTED, Biased, Pairwise, Right, Scores, learn
from saelab.errors import Invalid
from saelab.lab import Lab
from saelab.reports import Cell, Measure, Report, Table
from saelab.values import value


@ANALYSES.register("shift")
@value
class Shift(Pairwise):
    """Experimental: how much of a probe's bias goes when features are taken away that a human has picked."""

    features: tuple[int, ...] = ()
    """The picked features; empty lists candidates alone."""
    wanted: str = ""
    """What the probe is for: a task of `sae-probes`, or `domain NAME` or a named concept of the run's text."""
    unwanted: str = ""
    """What always came with it where the probe learnt."""
    texts_from: TextsFrom = "auto"
    """Where texts come from, as in `scr`."""
    candidates: int = 20
    """Features of largest effect on a probe of the unwanted attribute that are listed to be looked at."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `NotFound` for an attribute or feature that there is not, `Invalid` for too few texts or no bias."""
        self.check()
        if not self.wanted or not self.unwanted:
            raise Invalid("Name two attributes, such as --wanted 'domain fiction' --unwanted questions, and the features with --features.")
        outside = [feature for feature in self.features if not 0 <= feature < lab.dictionary.d_sae]
        if outside or len(set(self.features)) < len(self.features):
            raise Invalid(f"Give features from 0 to {lab.dictionary.d_sae - 1}, each once; {outside or 'one'} is not so.")
        found = attributes(lab, self.texts_from, self.max_tokens, self.seed)
        pair = (found.number(self.wanted), found.number(self.unwanted))
        if any(len(found.balanced(pair, self.least, test, self.seed)) < 4 * self.least for test in (False, True)):
            raise Invalid(
                f"{self.wanted} and {self.unwanted} have fewer than {self.least} texts of a combination. Read more text, or lower least."
            )
        (biased,) = learn(lab, self, found, [pair], fixed=True)
        if biased.gap < self.min_gap:
            raise Invalid(f"The probe of {self.wanted} is not biased by {self.unwanted} (gap {biased.gap:.2f}): nothing can be removed.")
        return Report(
            question=f"How much of the bias of a probe of {self.wanted!r} by {self.unwanted!r} goes with the picked features?",
            experimental=True,
            measures=self._measures(biased),
            tables=(self._candidates(lab, biased),),
            notes=(NOTE,),
        )

    def _measures(self, biased: Biased) -> tuple[Measure, ...]:
        scores, tests, count = Scores([biased], self.seed), biased.sets[OWN], len(self.features)
        after: dict[str, Right] = {to: biased.right(tests.without(np.array(self.features, dtype=int), to)) for to in TO}
        null = {to: at_random(biased, min(count, len(tests.alive)), to, self.draws, self.seed) for to in TO}
        closed = tuple(
            Measure(
                name=f"shift{'' if to == 'zero' else '_mean'}",
                estimate=scores.score([after[to]]),
                null=scores.score([null[to]]),
                null_is=NULL,
            )
            for to in TO
        )
        levels: Mapping[str, Right] = {"before": biased.right(tests.answers), **after, "oracle": biased.oracle}
        accuracies = {name: scores.accuracies([right]) for name, right in levels.items()}
        worst = {name: biased.worst(right, self.seed) for name, right in levels.items()}
        return (
            *closed,
            *(Measure(name=f"accuracy_{name}", estimate=estimated(one[:, 0], scores.n)) for name, one in accuracies.items()),
            *(Measure(name=f"worst_{name}", estimate=estimated(one, scores.n)) for name, one in worst.items()),
        )

    def _candidates(self, lab: Lab, biased: Biased) -> Table:
        effect, tests = biased.effects[OWN], biased.sets[OWN]
        best = strongest(effect, self.candidates).tolist()
        labels: dict[int, str | None] = {}
        if lab.folder.manifest("collect") is not None:
            labels = {row.index: row.label for row in lab.features.rows(sorted(best))}
        rows: list[tuple[Cell, ...]] = [
            (feature, float(effect[feature]), float(tests.pulls[feature, UNWANTED]), feature in self.features, labels.get(feature))
            for feature in best
        ]
        columns = ("feature", "effect", "pull on the unwanted", "picked", "label")
        return Table(title="Features with the largest effect on a probe of the unwanted attribute", columns=columns, rows=tuple(rows))
