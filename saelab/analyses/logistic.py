"""Logistic regression with nested validation: features chosen, penalty chosen and weights fitted without a look at the rows of the test.

    minimise over w, b   Σ log(1 + exp(-y (w · z + b))) + λ |w|² / 2          z: chosen columns, standardised on the training rows

solved by Newton's method in float64. Columns are chosen by |mean with - mean without| / standard deviation: dividing by the deviation keeps
large features from winning by size alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit
from scipy.stats import rankdata

PENALTIES = (0.1, 1.0, 10.0, 100.0)
_OUTER, _INNER = 5, 3
_ROUNDS = 30
Columns = Any
"""Numbers `[row feature]`: a scipy sparse array, or a numpy array."""


@dataclass(frozen=True)
class Model:
    """A fitted probe."""

    features: Int[np.ndarray, " k"]
    """The chosen columns."""
    centre: Float[np.ndarray, " k"]
    """Their means on the training rows."""
    scale: Float[np.ndarray, " k"]
    """Their standard deviations there."""
    weights: Float[np.ndarray, " k"]
    """Of the standardised columns."""
    bias: float
    """Added to the sum."""

    def scores(self, columns: Columns) -> Float[np.ndarray, " row"]:
        """How far each row is on the side of yes, in log odds."""
        return ((picked(columns, self.features) - self.centre) / self.scale) @ self.weights + self.bias


@dataclass(frozen=True)
class Validated:
    """What a probe reaches on rows that had no part in it, mean over the outer folds."""

    auroc: float
    """Area under the ROC curve."""
    accuracy: float
    """Share of right answers."""


def picked(columns: Columns, features: Int[np.ndarray, " k"]) -> Float[np.ndarray, "row k"]:
    """Some of the columns as a dense array."""
    part = columns[:, features]
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part, np.float64)


def strongest(columns: Columns, positive: Bool[np.ndarray, " row"], k: int) -> Int[np.ndarray, " k"]:
    """The k columns whose means differ most between the two kinds of rows, in standard deviations; the strongest first."""
    rows = len(positive)
    means = [np.asarray(columns[np.flatnonzero(kind)].mean(0)).ravel() for kind in (positive, ~positive)]
    squares = np.asarray((columns * columns).sum(0)).ravel() / rows
    mean = (means[0] * positive.sum() + means[1] * (~positive).sum()) / rows
    spread = np.sqrt(np.maximum(squares - mean**2, 0))
    gap = np.abs(means[0] - means[1]) / np.where(spread > 1e-12, spread, np.inf)
    return np.argsort(-gap, kind="stable")[:k]


def fit(columns: Columns, positive: Bool[np.ndarray, " row"], k: int | None, penalties: Sequence[float] = PENALTIES) -> list[Model]:
    """A probe for each penalty, on the k strongest columns (all without a k)."""
    features = np.arange(columns.shape[1]) if k is None else strongest(columns, positive, k)
    z = picked(columns, features)
    centre, scale = z.mean(0), z.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    z = np.concatenate([(z - centre) / scale, np.ones((len(z), 1))], axis=1)
    models: list[Model] = []
    weights = np.zeros(z.shape[1])
    for penalty in sorted(penalties, reverse=True):  # from the stiffest on, each begins where the last ended
        weights = _newton(z, positive.astype(float), penalty, weights)
        models.append(Model(features, centre, scale, weights[:-1], float(weights[-1])))
    return models


def _newton(z: Float[np.ndarray, "row d"], y: Float[np.ndarray, " row"], penalty: float, start: np.ndarray) -> Float[np.ndarray, " d"]:
    ridge = np.full(z.shape[1], penalty)
    ridge[-1] = 1e-6  # the bias is free but for the sake of a solvable system
    weights, step = start.copy(), 1.0

    def loss(w: np.ndarray) -> float:
        logits = z @ w
        return float(np.logaddexp(0, logits).sum() - y @ logits + (ridge * w**2).sum() / 2)

    now = loss(weights)
    for _ in range(_ROUNDS):
        chance = expit(z @ weights)
        slope = z.T @ (chance - y) + ridge * weights
        curve = (z * (chance * (1 - chance))[:, None]).T @ z + np.diag(ridge)
        move, step = np.linalg.solve(curve, slope), 1.0
        while (tried := loss(weights - step * move)) > now and step > 1e-4:
            step /= 2
        if tried > now - 1e-8 * (1 + abs(now)):
            break
        weights, now = weights - step * move, tried
    return weights


def validated(
    columns: Columns, positive: Bool[np.ndarray, " row"], group: Int[np.ndarray, " row"], k: int | None, seed: int
) -> Validated | None:
    """AUROC and accuracy of a probe, by nested validation over groups; none where a fold would have rows of one kind alone."""
    folds = folds_of(group, _OUTER, seed)
    found: list[tuple[float, float]] = []
    for fold in range(_OUTER):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if not all(_both(positive[part]) for part in (train, test)):
            return None
        penalty = _penalty(columns[train], positive[train], group[train], k, seed)
        model = fit(columns[train], positive[train], k, (penalty,))[0]
        scores = model.scores(columns[test])
        found.append((area(scores, positive[test]), float(((scores > 0) == positive[test]).mean())))
    auroc, accuracy = np.mean(found, axis=0)
    return Validated(float(auroc), float(accuracy))


def _penalty(columns: Columns, positive: Bool[np.ndarray, " row"], group: Int[np.ndarray, " row"], k: int | None, seed: int) -> float:
    """The penalty that does best on inner folds of the training rows."""
    folds, total = folds_of(group, _INNER, seed + 1), np.zeros(len(PENALTIES))
    for fold in range(_INNER):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if _both(positive[train]) and _both(positive[test]):
            models = fit(columns[train], positive[train], k)
            total += [area(model.scores(columns[test]), positive[test]) for model in models]
    return sorted(PENALTIES, reverse=True)[int(total.argmax())]


def folds_of(group: Int[np.ndarray, " row"], count: int, seed: int) -> Int[np.ndarray, " row"]:
    """The fold of each row: groups dealt at random, whole."""
    known, place = np.unique(group, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(known)) % count)[place]


def _both(positive: Bool[np.ndarray, " row"]) -> bool:
    return bool(positive.any() and not positive.all())


def area(scores: Float[np.ndarray, " row"], positive: Bool[np.ndarray, " row"]) -> float:
    """The AUROC of some scores."""
    count = int(positive.sum())
    above = rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(scores) - count)))
