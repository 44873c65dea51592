"""How well one number tells positives from negatives. Negatives may carry weights; ties count half."""

import numpy as np
from jaxtyping import Float, Int


def wins(positives: Float[np.ndarray, "b p"], negatives: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b p n"]:
    """1 where a positive is above a negative, 0.5 where they tie, 0 below."""
    difference = positives[..., :, None] - negatives[..., None, :]
    return (np.sign(difference) + 1) / 2


def auroc(
    won: Float[np.ndarray, "b p n"], weight_p: Float[np.ndarray, "r p"], weight_n: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, "r b"]:
    """Area under the ROC curve (Mann and Whitney 1947) of each of some rankings, for each of some weightings of the windows.

    NaN where one side weighs nothing.
    """
    rankings, p, n = won.shape
    partial = (weight_p @ won.transpose(1, 0, 2).reshape(p, rankings * n)).reshape(-1, rankings, n)
    total = weight_p.sum(-1) * weight_n.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.matmul(partial, weight_n[:, :, None])[..., 0] / total[:, None]).round(9)


def average_precisions(
    positives: Int[np.ndarray, "b p"], negatives: Int[np.ndarray, "b n"], weights: Float[np.ndarray, " p"] | None = None
) -> Float[np.ndarray, " b"]:
    """Average precision of each of some rankings by small whole numbers, as if half of the windows were positive.

    Sum over thresholds of precision times gain in recall; windows with equal numbers enter together. Positives may carry weights.
    """
    weights = np.ones(positives.shape[1]) if weights is None else weights
    levels = np.arange(max(int(positives.max(initial=0)), int(negatives.max(initial=0))), -1, -1)
    recall = (positives[:, None, :] >= levels[:, None]) @ (weights / weights.sum())
    alarms = (negatives[:, None, :] >= levels[:, None]).mean(-1)
    precision = recall / np.maximum(recall + alarms, 1e-12)
    return (precision * np.diff(recall, axis=-1, prepend=0.0)).sum(-1)


def document_weights(documents: Int[np.ndarray, " window"], draws: int, random: np.random.Generator) -> Float[np.ndarray, "draws window"]:
    """How often each window occurs in each of some bootstrap draws of whole documents (with replacement)."""
    known, place = np.unique(documents, return_inverse=True)
    picks = random.integers(0, max(1, len(known)), (draws, len(known)))
    counts = np.zeros((draws, len(known)))
    np.add.at(counts, (np.arange(draws)[:, None], picks), 1.0)
    return counts[:, place]


def interval(samples: Float[np.ndarray, " draw"]) -> tuple[float | None, float | None]:
    """The middle 95 % of the draws that are numbers; none where there are too few of them."""
    real = samples[np.isfinite(samples)]
    if len(real) < 20:
        return None, None
    low, high = np.quantile(real, (0.025, 0.975))
    return float(low), float(high)


def ratios(weights: Float[np.ndarray, "r w"], part: Float[np.ndarray, "b w"], whole: Float[np.ndarray, "b w"]) -> Float[np.ndarray, "r b"]:
    """Sum of some parts over the sum of their wholes, for each weighting of the windows; NaN where the whole is nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ part.T) / (weights @ whole.T)


def correlations(
    weights: Float[np.ndarray, "r w"],
    predicted: Float[np.ndarray, "b w pos"],
    actual: Float[np.ndarray, "w pos"],
    counted: Float[np.ndarray, "w pos"],
) -> Float[np.ndarray, "r b"]:
    """Pearson correlation over the counted tokens, for each weighting of the windows; 0 where one side is constant."""
    p, a, one = predicted * counted, actual * counted, counted.astype(np.float64)
    n, sum_a, squares_a = (weights @ part.sum(-1) for part in (one, a, a * a))
    sum_p, squares_p, products = ((part.sum(-1) @ weights.T).T for part in (p, p * p, p * a))
    cross = products - sum_p * (sum_a / n)[:, None]
    spread = (squares_p - sum_p**2 / n[:, None]) * (squares_a - sum_a**2 / n)[:, None]
    return np.where(spread > 1e-12, cross / np.sqrt(np.maximum(spread, 1e-12)), 0.0).clip(-1, 1)  # rounding passes 1
