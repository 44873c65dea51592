"""Absorption and splitting of token concepts: where the features of a concept stay silent although the concept is there.

For each named concept that a linear probe with normal p (of norm 1) tells well:

- Splitting: the fewest features k after which one more raises the F1 of a k-sparse probe by no more than 0.03. Those are the concept's main
  features S; more than one means that it is split.
- On tokens that have the concept, and where the probe agrees, r = (x - b)·p is how much of the concept the dictionary should write, and
  a_f = z_f d_f·p how much feature f writes of it. Full absorption: all of S are silent, and the feature that writes most has
  a_f ≥ 0.4 r with a direction of cosine ≥ 0.025. Fraction absorbed: 0 where Σ_S a ≥ r or the three largest others write less than 0.4 r; 1
  where Σ_S a ≤ 0; else A / (A + Σ_S a), A = min(what those three write, r - Σ_S a).

Chanin et al. 2024, "A is for absorption", https://arxiv.org/abs/2409.14507, for first letters; here the
same arithmetic for any concept of single tokens. SAEBench measures r from the origin; here from b, what the dictionary writes with no
feature, so that its bias is never absorbed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saelab.analyses.base import ANALYSES, Analysis
from saelab.analyses.lexicon import concept_labels
from saelab.analyses.logistic import fit, folds_of, strongest
from saelab.analyses.rows import CodeMatrix, Rows, codes_of, sample_rows
from saelab.analyses.tasks import balanced
from saelab.baselines.random import Random
from saelab.dictionary import Codes, Dictionary
from saelab.errors import Invalid
from saelab.estimates import ratio
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.reports import Cell, Chart, Measure, Report, Series, Table
from saelab.values import value

_MOST = 10
_RISE = 0.03
_LEAST_COSINE, _LEAST_SHARE, _ABSORBERS = 0.025, 0.4, 3
_FIT_ROWS = 3000


@dataclass(frozen=True)
class Absorbed:
    """What happens on each token that has a concept."""

    silent: Bool[np.ndarray, " row"]
    """All main features are silent."""
    full: Bool[np.ndarray, " row"]
    """They are, and another feature writes the concept."""
    fraction: Float[np.ndarray, " row"]
    """The share of the concept that others write in their place."""


def absorbed(
    codes: CodeMatrix,
    writes: Float[np.ndarray, " feature"],
    cosines: Float[np.ndarray, " feature"],
    reading: Float[np.ndarray, " row"],
    main: Sequence[int] | Int[np.ndarray, " k"],
) -> Absorbed:
    """Absorption on some tokens that have a concept.

    Arguments:
    - `codes`: codes of these tokens.
    - `writes`: d_f·p of every feature: how much of the concept one unit of it writes.
    - `cosines`: cosine of d_f and p.
    - `reading`: (x - b)·p of each token, above 0.
    - `main`: the concept's main features.
    """
    is_main = np.isin(np.arange(len(writes)), main)
    own, others = codes[:, np.flatnonzero(is_main)], codes[:, np.flatnonzero(~is_main)]
    silent = np.asarray((own != 0).sum(1)).ravel() == 0
    written = np.asarray(own @ writes[is_main]).ravel()
    full, fraction = np.zeros(len(silent), np.bool_), np.zeros(len(silent))
    outer, near = writes[~is_main], cosines[~is_main] >= _LEAST_COSINE
    for row in range(len(silent)):
        begin, end = others.indptr[row], others.indptr[row + 1]
        features = others.indices[begin:end]
        parts = np.where(near[features], others.data[begin:end] * outer[features], 0.0)
        largest = np.sort(parts[parts > 0])[::-1][:_ABSORBERS]
        full[row] = silent[row] and len(largest) > 0 and largest[0] >= _LEAST_SHARE * reading[row]
        taken = min(float(largest.sum()), reading[row] - written[row])
        if written[row] < reading[row] and largest.sum() >= _LEAST_SHARE * reading[row]:
            fraction[row] = 1.0 if written[row] <= 0 else taken / (taken + written[row])
    return Absorbed(silent, full, fraction)


@ANALYSES.register("absorption")
@value
class Absorption(Analysis):
    """How often a concept's features stay silent on it while others write it, and over how many features it is split."""

    rows: int = 30_000
    """Tokens of training documents that probes are fitted on, and as many of held-out documents that are judged."""
    min_positives: int = 40
    """Tokens with a concept that both halves must have."""
    min_f1: float = 0.8
    """F1 of a linear probe on the activation below which a concept is left out: the subject itself hardly has it."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `Invalid` where no concept is common enough and told by a linear probe."""
        halves = [sample_rows(lab, self.rows, self.seed, held_out=held_out) for held_out in (False, True)]
        labels = [concept_labels(lab, half.window, half.position) for half in halves]
        if lab.dictionary.d_out != lab.dictionary.d_in:
            raise Invalid("Absorption is measured where a dictionary writes what it reads; this one does not.")
        codes = [codes_of(lab.dictionary, half.x) for half in halves]
        k = max(1, min(round(codes[0].nnz / len(halves[0])), lab.dictionary.d_in))
        random = Random.fit(halves[0].x, k=k, d_sae=lab.dictionary.d_sae, seed=self.seed)
        random_codes = [codes_of(random, half.x) for half in halves]
        found: dict[str, tuple[_Found, _Found]] = {}
        untold: list[str] = []
        for number, name in enumerate(labels[0][0]):
            positive = [part[1][:, number] for part in labels]
            if name.startswith("domain ") or any(min(one.sum(), (~one).sum()) < self.min_positives for one in positive):
                continue
            own = self._concept(lab.dictionary, halves, codes, positive)
            null = self._concept(random, halves, random_codes, positive)
            if own is None or null is None:
                untold.append(name)
            else:
                found[name] = own, null
        if not found:
            raise Invalid("No named concept is common enough in the run's text and told by a linear probe. Read more text.")
        notes = (f"Not told by a linear probe with F1 of {self.min_f1:g}: {', '.join(untold)}.",) if untold else ()
        return _report(found, notes, self.seed)

    def _concept(
        self, dictionary: Dictionary, halves: Sequence[Rows], codes: Sequence[CodeMatrix], positive: Sequence[Bool[np.ndarray, " row"]]
    ) -> "_Found | None":
        """What becomes of one concept; none where the probe fails or hardly any token is left to judge."""
        draw = np.random.default_rng(self.seed)
        some = [balanced(one, 2 * _FIT_ROWS, draw) for one in positive]
        x = [half.x[torch.from_numpy(rows), : dictionary.d_in].double().numpy() for half, rows in zip(halves, some, strict=True)]
        probe = fit(x[0], positive[0][some[0]], None, (10.0,))[0]
        f1 = _f1(probe.scores(x[1]) > 0, positive[1][some[1]])
        if f1 < self.min_f1:
            return None
        main = _main(codes[0][some[0]], positive[0][some[0]], halves[0].document[some[0]], self.seed)
        normal = probe.weights / probe.scale
        normal /= np.linalg.norm(normal)
        judged = np.flatnonzero(positive[1])
        inputs = halves[1].x[torch.from_numpy(judged), : dictionary.d_in].double().numpy()
        reading = (inputs - _bias(dictionary)) @ normal
        agreed = (probe.scores(inputs) > 0) & (reading > 0)
        if agreed.sum() < 2:
            return None
        directions = dictionary.directions.double().numpy()
        writes = directions @ normal
        cosines = writes / np.maximum(np.linalg.norm(directions, axis=1), 1e-12)
        judged = judged[agreed]
        return _Found(f1, len(main), absorbed(codes[1][judged], writes, cosines, reading[agreed], main), halves[1].document[judged])


@dataclass(frozen=True)
class _Found:
    """One concept's numbers."""

    f1: float
    split: int
    absorbed: Absorbed
    documents: Int[np.ndarray, " row"]


def _bias(dictionary: Dictionary) -> Float[np.ndarray, " d_out"]:
    """What the dictionary writes with no feature."""
    none = Codes(indices=torch.zeros(1, 1, dtype=torch.long), values=torch.zeros(1, 1), d_sae=dictionary.d_sae)
    return dictionary.decode(none)[0].double().numpy()


def _main(codes: CodeMatrix, positive: Bool[np.ndarray, " row"], documents: Int[np.ndarray, " row"], seed: int) -> Int[np.ndarray, " k"]:
    """The concept's main features: as many as raise F1 on documents that the probe was not fitted on."""
    test = folds_of(documents, 4, seed) == 0
    before = 0.0
    for k in range(1, _MOST + 1):
        model = fit(codes[np.flatnonzero(~test)], positive[~test], k, (1.0,))[0]
        f1 = _f1(model.scores(codes[np.flatnonzero(test)]) > 0, positive[test])
        if k > 1 and f1 <= before + _RISE:
            return strongest(codes, positive, k - 1)
        before = f1
    return strongest(codes, positive, _MOST)


def _f1(said: Bool[np.ndarray, " row"], true: Bool[np.ndarray, " row"]) -> float:
    return float(2 * (said & true).sum() / max(1, said.sum() + true.sum()))


_NAMES = ("silent", "full", "fraction")


def _rates(found: _Found, seed: int) -> tuple[Estimate, ...]:
    ones = np.ones(len(found.documents))
    return tuple(ratio(getattr(found.absorbed, name).astype(float), ones, found.documents, seed) for name in _NAMES)


def _report(found: dict[str, tuple[_Found, _Found]], notes: tuple[str, ...], seed: int) -> Report:
    own, null = ({concept: _rates(pair[i], seed) for concept, pair in found.items()} for i in range(2))
    rows: list[tuple[Cell, ...]] = [
        (concept, len(one.documents), round(one.f1, 3), one.split, *own[concept]) for concept, (one, _) in found.items()
    ]

    def over(values: list[float]) -> Estimate:
        return ratio(np.array(values), np.ones(len(values)), np.arange(len(values)), seed)

    def means(rates: dict[str, tuple[Estimate, ...]], which: int) -> list[Estimate]:
        splits = [float(pair[which].split) for pair in found.values()]
        return [*(over([one[i].value for one in rates.values()]) for i in range(len(_NAMES))), over(splits)]

    names = ("silent", "absorbed_full", "absorbed_fraction", "split_features")
    measures = tuple(
        Measure(name=name, estimate=one, null=other, null_is="random directions at the same L0")
        for name, one, other in zip(names, means(own, 0), means(null, 1), strict=True)
    )
    table = Table(
        title="Absorption by concept, on held-out tokens where a linear probe agrees",
        columns=("concept", "tokens", "probe f1", "main features", *_NAMES),
        rows=tuple(rows),
    )
    drawn = tuple(Series(name=name, x=tuple(found), y=tuple(one[i].value for one in own.values())) for i, name in enumerate(_NAMES))
    chart = Chart(title="Absorption by concept", kind="bar", x="", y="share of tokens with the concept", series=drawn)
    return Report(
        question="How often do a concept's features stay silent on it while others write it?",
        measures=measures,
        tables=(table,),
        charts=(chart,),
        notes=notes,
    )
