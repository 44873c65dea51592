"""Description length: bits a token that codes cost, and what is lost when they are rounded so that they can be sent.

    length(token) = Σ_f -log2 P(f active or silent) + Σ_active -log2 P(bin of z_f | f)

Each feature's range of activations is cut into equal bins. Both probabilities are counted on training documents, with half an
observation added to each outcome (Krichevsky and Trofimov 1981), and paid on held-out ones, so that a rare feature costs what it would
cost to send. The variance unexplained is that of the rounded codes. Fewer bits at the same variance is better; bits alone say nothing.

Ayonrinde et al. 2024, "Interpretability as compression", https://arxiv.org/abs/2410.11179.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from saelab.analyses.base import ANALYSES, Analysis
from saelab.analyses.rows import CodeMatrix, Rows, codes_of, sample_rows
from saelab.baselines.pca import PCA
from saelab.baselines.random import Random
from saelab.dictionary import Codes, Dictionary
from saelab.errors import Invalid
from saelab.estimates import ratio
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.reports import Cell, Chart, Measure, Report, Series, Table
from saelab.values import value

_PART = 4096


@dataclass(frozen=True)
class Prices:
    """What it costs to send codes of a dictionary, counted on some rows."""

    silent: Float[np.ndarray, " feature"]
    """Bits to say that a feature is silent."""
    active: Float[np.ndarray, " feature"]
    """Bits to say that it is active."""
    low: Float[np.ndarray, " feature"]
    """Lower end of its range."""
    width: Float[np.ndarray, " feature"]
    """Width of its bins."""
    bins: Float[np.ndarray, "feature bin"]
    """Bits to say in which bin its activation lies."""

    @classmethod
    def counted(cls, codes: CodeMatrix, bins: int) -> "Prices":
        """Prices from the codes `[row feature]` of training rows."""
        rows, features = codes.shape
        columns = codes.tocsc()
        fired = np.diff(columns.indptr)
        of = np.repeat(np.arange(features), fired)
        low, high = np.full(features, np.inf), np.full(features, -np.inf)
        np.minimum.at(low, of, columns.data)
        np.maximum.at(high, of, columns.data)
        low, high = np.where(fired > 0, low, 0.0), np.where(fired > 0, high, 0.0)
        width = np.where(high > low, (high - low) / bins, 1.0)
        counts = np.zeros((features, bins))
        np.add.at(counts, (of, _bin(columns.data, low[of], width[of], bins)), 1.0)
        share = (fired + 0.5) / (rows + 1)
        return cls(-np.log2(1 - share), -np.log2(share), low, width, -np.log2((counts + 0.5) / (fired[:, None] + bins / 2)))

    def lengths(self, codes: CodeMatrix) -> Float[np.ndarray, " row"]:
        """Bits that each row costs."""
        rows = codes.tocsr()
        features = rows.indices
        place = _bin(rows.data, self.low[features], self.width[features], self.bins.shape[1])
        extra = self.active[features] - self.silent[features] + self.bins[features, place]
        of = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        return self.silent.sum() + np.bincount(of, weights=extra, minlength=rows.shape[0])

    def rounded(self, codes: CodeMatrix) -> CodeMatrix:
        """The codes as they arrive: the middle of each one's bin."""
        rows = codes.tocsr(copy=True)
        features = rows.indices
        place = _bin(rows.data, self.low[features], self.width[features], self.bins.shape[1])
        rows.data = self.low[features] + (place + 0.5) * self.width[features]
        return rows


def _bin(values: np.ndarray, low: np.ndarray, width: np.ndarray, bins: int) -> Int[np.ndarray, " code"]:
    return np.clip(((values - low) / width).astype(int), 0, bins - 1)


@ANALYSES.register("description")
@value
class Description(Analysis):
    """Bits a token and variance unexplained of rounded codes, beside random directions and principal components."""

    rows: int = 20_000
    """Tokens of training documents that prices are counted on, and as many of held-out ones that are sent."""
    bins: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Into how many bins a feature's activations are cut."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `Invalid` for fewer than two bins, or a dictionary that does not write what it reads."""
        if not self.bins or min(self.bins) < 2:
            raise Invalid("Each of bins must be 2 or more.")
        if lab.dictionary.d_out != lab.dictionary.d_in:
            raise Invalid("Codes stand for activations only where a dictionary writes what it reads; this one does not.")
        halves = [sample_rows(lab, self.rows, self.seed, held_out=held_out) for held_out in (False, True)]
        x = halves[0].x
        own = codes_of(lab.dictionary, x)
        k = max(1, min(round(own.nnz / len(x)), lab.dictionary.d_in))
        dictionaries = {
            "features": lab.dictionary,
            "control random": Random.fit(x, k=k, d_sae=lab.dictionary.d_sae, seed=self.seed),
            "control pca": PCA.fit(x, k=k),
        }
        found = {name: _curve(one, halves, self.bins, self.seed) for name, one in dictionaries.items()}
        rows: list[tuple[Cell, ...]] = [
            (name, bins, *pair) for name, points in found.items() for bins, pair in zip(self.bins, points, strict=True)
        ]
        last, null = found["features"][-1], found["control random"][-1]
        null_is = "random directions at the same L0"
        names = (f"bits_per_token_{self.bins[-1]}_bins", f"fvu_{self.bins[-1]}_bins")
        measures = tuple(Measure(name=names[i], estimate=last[i], null=null[i], null_is=null_is) for i in range(2))
        series = tuple(
            Series(name=name, x=tuple(bits.value for bits, _ in points), y=tuple(fvu.value for _, fvu in points))
            for name, points in found.items()
        )
        return Report(
            question="How many bits a token do the codes cost, and what do they keep?",
            measures=measures,
            tables=(Table(title="Rounded codes, held-out tokens", columns=("codes", "bins", "bits a token", "fvu"), rows=tuple(rows)),),
            charts=(Chart(title="Rate and distortion", kind="line", x="bits a token", y="fvu", series=series),),
        )


def _curve(dictionary: Dictionary, halves: list[Rows], bins: tuple[int, ...], seed: int) -> list[tuple[Estimate, Estimate]]:
    """Bits and FVU for each number of bins."""
    counted, sent = (codes_of(dictionary, half.x) for half in halves)
    x, documents = halves[1].x.double(), halves[1].document
    spread = (x - halves[0].x.double().mean(0)).square().sum(1).numpy()
    points: list[tuple[Estimate, Estimate]] = []
    for number in bins:
        prices = Prices.counted(counted, number)
        error = (x - _decoded(dictionary, prices.rounded(sent))).square().sum(1).numpy()
        bits = ratio(prices.lengths(sent), np.ones(len(x)), documents, seed)
        points.append((bits, ratio(error, spread, documents, seed)))
    return points


@torch.inference_mode()
def _decoded(dictionary: Dictionary, codes: CodeMatrix) -> Float[torch.Tensor, "row d_out"]:
    parts: list[torch.Tensor] = []
    for begin in range(0, codes.shape[0], _PART):
        dense = torch.from_numpy(codes[begin : begin + _PART].toarray()).to(dictionary.directions)
        parts.append(dictionary.decode(Codes.from_dense(dense)).double().cpu())
    return torch.cat(parts)
