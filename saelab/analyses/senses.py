"""Sense separation: whether single features tell the same token in different kinds of text.

For each of the commonest words that occur in two domains, the feature is sought that tells its occurrences in one domain from those in the
other: chosen on training documents, judged by AUROC on held-out ones. With the token held constant only the context is left to be told. The
null is the best random direction chosen in the same way; a linear probe on the whole activation says how much there is to be told at all.

A domain stands in for a sense, because it is known without a reader: "court" in law and in sport is a true case, "people" in two domains is
not. The comparison with random directions and with the probe is what counts, not the number itself.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saelab.activations.shuffle import first_rows
from saelab.analyses.base import ANALYSES, Analysis
from saelab.analyses.logistic import area, fit
from saelab.analyses.ranking import Ranking
from saelab.analyses.rows import CodeMatrix, Rows, codes_of, sample_rows
from saelab.baselines.random import Random
from saelab.errors import Invalid
from saelab.estimates import ratio
from saelab.features.vocabulary import WORD, fold
from saelab.lab import Lab
from saelab.reports import Cell, Chart, Measure, Report, Series, Table
from saelab.values import value

_SHORTEST = 3
_FIT_ROWS = 20_000


@dataclass(frozen=True)
class _Case:
    """A word in two domains: rows of each half, and which of them are in the first domain."""

    word: str
    domains: tuple[str, str]
    rows: tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]
    positive: tuple[Bool[np.ndarray, " a"], Bool[np.ndarray, " b"]]


@ANALYSES.register("senses")
@value
class Senses(Analysis):
    """How well one feature tells occurrences of the same word in two domains."""

    rows: int = 100_000
    """Tokens of training documents that features are chosen on, and of held-out documents that they are judged on, at most."""
    words: int = 40
    """Words that are looked at, the commonest first."""
    min_each: int = 10
    """Occurrences that both halves must have in both domains."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `Invalid` where no word is common in two domains."""
        halves = [sample_rows(lab, self.rows, self.seed, held_out=held_out) for held_out in (False, True)]
        cases = self._cases(lab, halves)
        if not cases:
            raise Invalid(f"No word occurs {self.min_each} times in each of two domains, in training and in held-out text. Read more text.")
        sample = first_rows(lab.store, _FIT_ROWS, self.seed)[:, : lab.dictionary.d_in]
        active = codes_of(lab.dictionary, sample[:2000])
        k = max(1, min(round(active.nnz / active.shape[0]), lab.dictionary.d_in))
        random = Random.fit(sample, k=k, d_sae=lab.dictionary.d_sae, seed=self.seed)
        rows: list[tuple[Cell, ...]] = []
        values: list[tuple[float, float, float]] = []
        for case in cases:
            x = [half.x[torch.from_numpy(part), : lab.dictionary.d_in] for half, part in zip(halves, case.rows, strict=True)]
            own = _best([codes_of(lab.dictionary, part) for part in x], case.positive)
            null = _best([codes_of(random, part) for part in x], case.positive)
            probe = fit(x[0].double().numpy(), case.positive[0], None, (100.0,))[0]
            told = area(probe.scores(x[1].double().numpy()), case.positive[1])
            rows.append((case.word, " / ".join(case.domains), len(case.rows[1]), own[0], own[1], null[1], told))
            values.append((own[1], null[1], told))
        columns = ("word", "domains", "held-out tokens", "feature", "auroc", "random", "probe")
        means = [ratio(part, np.ones(len(cases)), np.arange(len(cases)), self.seed) for part in np.array(values).T]
        measures = (
            Measure(name="sense_auroc", estimate=means[0], null=means[1], null_is="the best random direction"),
            Measure(name="sense_auroc_probe", estimate=means[2]),
        )
        words = tuple(case.word for case in cases)
        names = ("features", "control random", "probe")
        series = tuple(Series(name=name, x=words, y=tuple(one[i] for one in values)) for i, name in enumerate(names))
        return Report(
            question="Do single features tell the same word in two kinds of text?",
            measures=measures,
            tables=(Table(title="The same word in two domains", columns=columns, rows=tuple(rows)),),
            charts=(Chart(title="The same word in two domains", kind="bar", x="", y="auroc, held-out documents", series=series),),
        )

    def _cases(self, lab: Lab, halves: list[Rows]) -> list[_Case]:
        """The commonest words with enough occurrences in two domains in both halves, each with its two commonest domains."""
        domains = np.array([lab.corpus.document(number).domain for number in range(lab.corpus.num_documents)])
        of_row = [domains[lab.corpus.window_document[half.window]] for half in halves]
        folds, names = np.unique([fold(token) for token in lab.subject.vocabulary], return_inverse=True)[::-1]
        ids = [folds[_ids(lab, half)] for half in halves]
        found: list[_Case] = []
        for number in np.argsort(-np.bincount(ids[0], minlength=len(names)), kind="stable"):
            word = str(names[number])
            if len(found) == self.words:
                break
            if len(word) < _SHORTEST or WORD.fullmatch(word) is None:
                continue
            places = [np.flatnonzero(one == number) for one in ids]
            if len(places[0]) < 2 * self.min_each:
                break
            counted = [dict(zip(*np.unique(of[at], return_counts=True), strict=True)) for of, at in zip(of_row, places, strict=True)]
            common = [name for name, n in counted[0].items() if min(n, counted[1].get(name, 0)) >= self.min_each]
            if len(common) >= 2:
                pair = sorted(common, key=lambda name: -counted[0][name])[:2]
                rows = [at[np.isin(of[at], pair)] for of, at in zip(of_row, places, strict=True)]
                positive = [of[at] == pair[0] for of, at in zip(of_row, rows, strict=True)]
                found.append(_Case(word, (str(pair[0]), str(pair[1])), (rows[0], rows[1]), (positive[0], positive[1])))
        return found


def _ids(lab: Lab, rows: Rows) -> Int[np.ndarray, " row"]:
    known, place = np.unique(rows.window, return_inverse=True)
    return lab.corpus.windows(known)[0][place, rows.position]


def _best(codes: list[CodeMatrix], positive: tuple[Bool[np.ndarray, " a"], Bool[np.ndarray, " b"]]) -> tuple[int, float]:
    """The feature that tells best on the first half, and its AUROC on the other."""
    gaps: Float[np.ndarray, " feature"] = Ranking(codes[0]).aurocs(positive[0][:, None])[:, 0] - 0.5
    feature = int(np.abs(gaps).argmax())
    sign = 1.0 if gaps[feature] >= 0 else -1.0
    return feature, area(sign * codes[1][:, [feature]].toarray()[:, 0], positive[1])
