"""How well one number tells positives from negatives. Negatives may carry weights; ties count half."""

import numpy as np
from jaxtyping import Float, Int


def wins(positives: Float[np.ndarray, "*b p"], negatives: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b p n"]:
    """1 where a positive is above a negative, 0.5 where they tie, 0 below."""
    difference = positives[..., :, None] - negatives[..., None, :]
    return (np.sign(difference) + 1) / 2


def auroc(won: Float[np.ndarray, "*b p n"], weight_p: Float[np.ndarray, "r p"], weight_n: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r *b"]:
    """Area under the ROC curve (Mann and Whitney 1947) for each of some weightings of the windows; NaN where one side weighs nothing."""
    total = weight_p.sum(-1) * weight_n.sum(-1)
    area = np.einsum("rp,...pn,rn->r...", weight_p, won, weight_n, optimize=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return area / total.reshape(-1, *([1] * (area.ndim - 1)))


def average_precision(positives: Int[np.ndarray, " p"] | Float[np.ndarray, " p"], negatives: Int[np.ndarray, " n"] | Float[np.ndarray, " n"]) -> float:
    """Sum over thresholds of precision times gain in recall; windows with equal numbers enter together. As if half were positive."""
    levels = np.unique(np.concatenate([positives, negatives]))[::-1]
    recall = (positives[None, :] >= levels[:, None]).mean(1)
    alarms = (negatives[None, :] >= levels[:, None]).mean(1)
    return float((recall / np.maximum(recall + alarms, 1e-12) * np.diff(recall, prepend=0.0)).sum())


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
