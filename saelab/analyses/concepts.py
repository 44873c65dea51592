"""Named-concept search: for each of some forty concepts the feature that tells it best, tested on documents that it was not chosen on.

The feature with the AUROC furthest from a half on training documents is chosen, with its sign, among those that fire there on ten tokens or
more. Its AUROC is then measured on held-out documents, and so are those of the best random direction and of the best neuron, chosen in
the same way among as many rows of the same tokens.

    p   of AUROC(feature) - AUROC(best random direction) ≤ 0, from the bootstrap of whole documents, one-sided

corrected over all concepts: Holm for "any of them false", Benjamini-Hochberg for "this share of them false". The choice costs no
correction: it never saw the documents of the test.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse

from saelab.analyses.base import ANALYSES, Analysis
from saelab.analyses.lexicon import concept_labels
from saelab.analyses.ranking import Ranking, auroc_draws, benjamini_hochberg, draws_of, estimated, holm, p_above_zero
from saelab.analyses.rows import CodeMatrix, Rows, codes_of, sample_rows
from saelab.baselines.random import Random
from saelab.dictionary import Dictionary
from saelab.errors import Invalid
from saelab.estimates import share
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.reports import Cell, Chart, Measure, Report, Series, Table
from saelab.values import value

_MIN_FIRINGS = 10


@dataclass(frozen=True)
class _Best:
    """The feature that tells a concept best on the documents that it was chosen on."""

    feature: int
    sign: float
    draws: Float[np.ndarray, " draw"]


@ANALYSES.register("concepts")
@value
class Concepts(Analysis):
    """The best feature for each named concept, with held-out AUROC and corrected significance."""

    rows: int = 50_000
    """Tokens of training documents that features are chosen on, and as many of held-out documents that they are tested on."""
    min_positives: int = 30
    """Tokens with a concept that both halves must have; a concept with fewer is listed as too rare."""
    min_documents: int = 5
    """Held-out documents that a concept must occur in."""
    level: float = 0.05
    """Level of significance after the correction."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `Invalid` where the run has no text or none of the concepts is common enough."""
        halves = [sample_rows(lab, self.rows, self.seed, held_out=held_out) for held_out in (False, True)]
        labels = [concept_labels(lab, half.window, half.position) for half in halves]
        names, choose, test = labels[0][0], labels[0][1], labels[1][1]
        common = self._common(choose, test, halves[1].document)
        rare = tuple(name for name, kept in zip(names, common, strict=True) if not kept)
        if not common.any():
            raise Invalid(f"None of the {len(names)} concepts is on {self.min_positives} tokens of both halves. Read more text.")
        kept = [name for name, fine in zip(names, common, strict=True) if fine]
        found = {name: self._best(codes, choose[:, common], test[:, common], halves[1]) for name, codes in _codes(lab, halves).items()}
        p = _p(found["own"], found["random"])
        above_neurons = int((holm(_p(found["own"], found["neurons"])) < self.level).sum())
        n = len(np.unique(halves[1].document))
        table = _table(lab, kept, test[:, common], found, (holm(p), benjamini_hochberg(p)), n)
        significant = int((holm(p) < self.level).sum())
        measures = (
            Measure(name="concepts_found", estimate=share(significant, len(kept))),
            Measure(name="concepts_found_bh", estimate=share(int((benjamini_hochberg(p) < self.level).sum()), len(kept))),
            Measure(name="concepts_above_neurons", estimate=share(above_neurons, len(kept))),
            _mean("mean_auroc", found["own"], found["random"], n, "the best random direction"),
            _mean("mean_auroc_neurons", found["neurons"], found["random"], n, "the best random direction"),
        )
        notes = (f"Too rare to be tested: {', '.join(rare)}.",) if rare else ()
        return Report(question=_QUESTION, measures=measures, tables=(table,), charts=(_chart(kept, found, n),), notes=notes)

    def _common(
        self, choose: Bool[np.ndarray, "row concept"], test: Bool[np.ndarray, "row concept"], documents: Int[np.ndarray, " row"]
    ) -> Bool[np.ndarray, " concept"]:
        """Which concepts are on enough tokens of both halves, but not on nearly all of them, and in enough documents."""
        enough = [(half.sum(0) >= self.min_positives) & ((~half).sum(0) >= self.min_positives) for half in (choose, test)]
        spread = np.array([len(np.unique(documents[column])) >= self.min_documents for column in test.T])
        return enough[0] & enough[1] & spread

    def _best(
        self,
        codes: tuple[CodeMatrix, CodeMatrix],
        choose: Bool[np.ndarray, "row concept"],
        test: Bool[np.ndarray, "row concept"],
        tested: Rows,
    ) -> list[_Best]:
        """The best feature of a dictionary for each concept, with its AUROC on the other half and on draws of its documents."""
        gaps = Ranking(codes[0]).aurocs(choose) - 0.5
        gaps[np.diff(codes[0].tocsc().indptr) < _MIN_FIRINGS] = 0.0
        columns, (of_item, weights) = codes[1].tocsc(), draws_of(tested.document, self.seed)
        best: list[_Best] = []
        for concept, feature in enumerate(np.abs(gaps).argmax(0)):
            sign = 1.0 if gaps[feature, concept] >= 0 else -1.0
            scores = sign * columns[:, [feature]].toarray()[:, 0]
            best.append(_Best(int(feature), sign, auroc_draws(scores, test[:, concept], of_item, weights)))
        return best


_QUESTION = "Which feature tells each named concept best, and how well on other documents?"


def _p(own: list[_Best], others: list[_Best]) -> Float[np.ndarray, " concept"]:
    """p-values of the features being no better than others, on the same draws of documents."""
    return np.array([p_above_zero(best.draws - other.draws) for best, other in zip(own, others, strict=True)])


def _codes(lab: Lab, halves: list[Rows]) -> dict[str, tuple[CodeMatrix, CodeMatrix]]:
    """Codes of both halves: the dictionary's own, those of random directions with as many active features, and the neurons."""
    own = tuple(codes_of(lab.dictionary, half.x) for half in halves)
    random = _random(lab.dictionary, halves[0], max(1, round(own[0].nnz / len(halves[0]))))
    neurons = tuple(_dense(half.x[:, : lab.dictionary.d_in]) for half in halves)
    return {
        "own": (own[0], own[1]),
        "random": (codes_of(random, halves[0].x), codes_of(random, halves[1].x)),
        "neurons": (neurons[0], neurons[1]),
    }


def _random(dictionary: Dictionary, rows: Rows, k: int) -> Random:
    """Random directions that read what the dictionary reads."""
    return Random.fit(rows.x[:, : dictionary.d_in], k=min(k, dictionary.d_in), d_sae=dictionary.d_sae)


def _dense(x: Float[torch.Tensor, "row d_in"]) -> CodeMatrix:
    return sparse.csr_array(x.double().numpy())


def _table(
    lab: Lab,
    names: list[str],
    test: Bool[np.ndarray, "row concept"],
    found: Mapping[str, list[_Best]],
    p: tuple[Float[np.ndarray, " concept"], ...],
    n: int,
) -> Table:
    texts: dict[int, str | None] = {}
    if lab.folder.manifest("collect") is not None:
        texts = {row.index: row.label for row in lab.features.rows(sorted({best.feature for best in found["own"]}))}
    rows: list[tuple[Cell, ...]] = []
    for number, name in enumerate(names):
        own, random, neurons = (found[kind][number] for kind in ("own", "random", "neurons"))
        feature = (own.feature, "+" if own.sign > 0 else "-")
        aurocs = tuple(estimated(best.draws, n) for best in (own, random, neurons))
        corrected = tuple(float(one[number]) for one in p)
        rows.append((name, int(test[:, number].sum()), *feature, *aurocs, *corrected, texts.get(own.feature)))
    columns = ("concept", "tokens", "feature", "sign", "auroc", "random", "neurons", "p holm", "p bh", "label")
    order = np.argsort([-found["own"][number].draws[0] for number in range(len(names))], kind="stable")
    return Table(title="The best feature for each concept, on held-out documents", columns=columns, rows=tuple(rows[i] for i in order))


def _mean(name: str, found: list[_Best], null: list[_Best], n: int, null_is: str) -> Measure:
    own, other = (estimated(np.nanmean([best.draws for best in group], axis=0), n) for group in (found, null))
    return Measure(name=name, estimate=own, null=other, null_is=null_is)


def _chart(names: list[str], found: Mapping[str, list[_Best]], n: int) -> Chart:
    def series(name: str, best: list[_Best]) -> Series:
        points: list[Estimate] = [estimated(one.draws, n) for one in best]
        return Series(
            name=name,
            x=tuple(names),
            y=tuple(point.value for point in points),
            low=tuple(point.low for point in points),
            high=tuple(point.high for point in points),
        )

    drawn = (series("features", found["own"]), series("neurons", found["neurons"]), series("control random", found["random"]))
    return Chart(title="AUROC of the best feature for each concept", kind="bar", x="", y="auroc, held-out documents", series=drawn)
