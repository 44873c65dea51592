"""How well numbers tell positives from negatives: every feature at once, or one of them with the uncertainty over documents.

    AUROC = P(z of a positive > z of a negative) + P(equal) / 2 = (Σ_positive midrank - P (P + 1) / 2) / (P N)

of P positives and N negatives (Mann and Whitney 1947).
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.special import ndtr
from scipy.stats import rankdata

from saelab.analyses.rows import CodeMatrix
from saelab.records import Estimate
from saelab.scorers.metrics import document_weights, interval

DRAWS = 200
"""Bootstrap draws of documents behind an interval."""


class Ranking:
    """The midrank of each row among all rows, by the codes of each feature; made once, asked for any number of concepts.

    Arguments:
    - `codes`: codes `[row feature]`; values that are not stored are 0, stored ones may be negative.
    """

    def __init__(self, codes: CodeMatrix) -> None:
        columns = codes.tocsc()
        self._rows, self._zero = codes.shape[0], np.zeros(codes.shape[1])
        ranks = np.zeros(len(columns.data))
        for feature, (begin, end) in enumerate(zip(columns.indptr[:-1], columns.indptr[1:], strict=True)):
            values = columns.data[begin:end]
            zeros = self._rows - len(values)
            self._zero[feature] = (values < 0).sum() + (zeros + 1) / 2
            ranks[begin:end] = rankdata(values) + zeros * (values > 0) - self._zero[feature]
        self._above = sparse.csc_array((ranks, columns.indices, columns.indptr), shape=codes.shape)

    def aurocs(self, positive: Bool[np.ndarray, "row concept"]) -> Float[np.ndarray, "feature concept"]:
        """The AUROC of every feature for every concept; NaN for a concept that all rows have, or none."""
        count = positive.sum(0).astype(float)
        sums = self._above.T @ positive.astype(float) + self._zero[:, None] * count
        with np.errstate(invalid="ignore", divide="ignore"):
            return (sums - count * (count + 1) / 2) / (count * (self._rows - count))


def auroc_draws(
    scores: Float[np.ndarray, " item"],
    positive: Bool[np.ndarray, " item"],
    documents: Int[np.ndarray, " item"],
    weights: Float[np.ndarray, "draw document"],
) -> Float[np.ndarray, " draw"]:
    """The AUROC under each of some weightings of the documents, which are numbered from 0; NaN where one kind weighs nothing."""
    order = np.argsort(scores, kind="stable")
    of_item, kind = documents[order], positive[order]
    ties = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    values = np.full(len(weights), np.nan)
    for draw, weight in enumerate(weights):
        each = weight[of_item]
        up, down = (np.add.reduceat(each * part, ties) for part in (kind, ~kind))
        total = up.sum() * down.sum()
        if total:
            values[draw] = (up * (np.cumsum(down) - down / 2)).sum() / total
    return values


def draws_of(documents: Int[np.ndarray, " item"], seed: int) -> tuple[Int[np.ndarray, " item"], Float[np.ndarray, "draw document"]]:
    """Documents numbered from 0, and weightings of them: once each, then as in bootstrap draws of whole documents."""
    known, of_item = np.unique(documents, return_inverse=True)
    drawn = document_weights(np.arange(len(known)), DRAWS, np.random.default_rng(seed))
    return of_item, np.concatenate([np.ones((1, len(known))), drawn])


def estimated(draws: Float[np.ndarray, " draw"], n: int) -> Estimate:
    """The estimate of a number from its value on all documents, which comes first, and its values on draws of them."""
    low, high = interval(draws[1:])
    return Estimate(value=float(draws[0]), low=low, high=high, n=n)


def auroc(
    scores: Float[np.ndarray, " item"], positive: Bool[np.ndarray, " item"], documents: Int[np.ndarray, " item"], seed: int
) -> Estimate | None:
    """The AUROC of a number, with the 95 % interval over documents; none where all items are of one kind."""
    if positive.all() or not positive.any():
        return None
    of_item, weights = draws_of(documents, seed)
    return estimated(auroc_draws(scores, positive, of_item, weights), weights.shape[1])


def p_above_zero(draws: Float[np.ndarray, " draw"]) -> float:
    """One-sided p-value of a difference being 0 or less: its value over its bootstrap standard error against the normal distribution."""
    real = draws[1:][np.isfinite(draws[1:])]
    error = float(real.std(ddof=1)) if len(real) > 1 else 0.0
    if not error:
        return float(draws[0] <= 0)
    return float(ndtr(-draws[0] / error))


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values corrected for several tests: the chance of any false finding stays below the level (Holm 1979)."""
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    return _put_back(np.minimum(raised, 1.0), order)


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values corrected so that the expected share of false findings stays below the level (Benjamini and Hochberg 1995)."""
    order = np.argsort(p)[::-1]
    lowered = np.minimum.accumulate(p[order] * len(p) / (len(p) - np.arange(len(p))))
    return _put_back(np.minimum(lowered, 1.0), order)


def _put_back(values: Float[np.ndarray, " test"], order: Int[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    back = np.empty_like(values)
    back[order] = values
    return back
