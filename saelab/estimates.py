"""Estimates: numbers with the uncertainty that their sampling leaves.

Tokens of one document are alike, so intervals come from resampling whole documents (the cluster bootstrap, Efron & Tibshirani 1993), never
single tokens.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from saelab.errors import Invalid
from saelab.records import Estimate

RESAMPLES = 1000
"""Resamples of a bootstrap interval."""


def ratio(
    numerators: Float[np.ndarray, " part"], denominators: Float[np.ndarray, " part"], documents: Int[np.ndarray, " part"], seed: int = 0
) -> Estimate:
    """The ratio of two sums, with the 95 % interval over documents. `n` is the number of documents.

    Raises `Invalid` where the lower sum is 0.
    """
    if not denominators.sum():
        raise Invalid("There is nothing to compare with: the quantity that the measure is relative to is 0 on all documents.")
    _, cluster = np.unique(documents, return_inverse=True)
    n = int(cluster.max()) + 1
    top, bottom = (np.bincount(cluster, weights=part, minlength=n) for part in (numerators, denominators))
    value = float(top.sum() / bottom.sum())
    if n < 2:
        return Estimate(value=value, n=n)
    picks = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    values = top[picks].sum(1) / bottom[picks].sum(1)
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high), n=n)


def share(hits: int, n: int) -> Estimate:
    """A share of a whole that was counted, not sampled."""
    return Estimate(value=hits / n, n=n)


def mean(values: Float[np.ndarray, " item"]) -> Estimate:
    """The mean of independent items, such as the seeds of a run, with the 95 % interval of Student's t. Raises `Invalid` for none."""
    n = len(values)
    if not n:
        raise Invalid("The mean of no items was asked for; give one at least.")
    value = float(np.mean(values))
    if n < 2:
        return Estimate(value=value, n=n)
    half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / n**0.5)
    return Estimate(value=value, low=value - half, high=value + half, n=n)
