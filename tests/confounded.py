"""Texts whose attributes or classes are known features, as means over their tokens."""

import numpy as np
from scipy import sparse

from saelab.analyses.ablation import Accuracies
from saelab.analyses.means import OWN, Means
from saelab.analyses.spurious import Biased, learnt
from saelab.analyses.tpp import Perturbed, perturbed

WANTED, SPURIOUS, WIDTH = 3, 5, 24
"""Features of the two attributes; how many features, and dimensions, there are."""


def means(codes: np.ndarray) -> Means:
    """Texts with these codes, written along the axes, with an error that no feature writes."""
    noise = 0.2 * np.random.default_rng(9).standard_normal(codes.shape)
    return Means(x=codes + noise, codes={OWN: sparse.csr_array(codes)}, directions={OWN: np.eye(codes.shape[1])})


def confounded(low: float, rows: int = 150, wanted_scale: float = 1.0) -> Biased:
    """A probe that learnt two attributes together: a feature is `low` or 1 times a scale, 3 for the spurious one; the rest is noise."""
    draw = np.random.default_rng(0)
    answers = np.array([(a, b) for _ in range(2) for a in (True, False) for b in (True, False) for _ in range(rows)])
    codes = np.maximum(0.2 * draw.standard_normal((len(answers), WIDTH)), 0)
    codes[:, WANTED], codes[:, SPURIOUS] = (
        scale * np.where(side, 1.0, low) for scale, side in zip((wanted_scale, 3), answers.T, strict=True)
    )
    half = np.arange(4 * rows)
    return learnt(means(codes), answers, ("job", "gender"), (half, half + 4 * rows), np.arange(len(answers)))


def classes(count: int = 4, rows: int = 50) -> tuple[Perturbed, Accuracies]:
    """Texts of some classes; the feature of its class, whose number it has, fires on each."""
    draw = np.random.default_rng(3)
    of_text = np.tile(np.arange(count), 2 * rows)
    codes = np.maximum(0.2 * draw.standard_normal((len(of_text), WIDTH)), 0)
    codes[np.arange(len(of_text)), of_text] = 3.0
    test = np.arange(len(of_text)) >= count * rows
    found = perturbed(means(codes), of_text, test, seed=0)
    return found, Accuracies(np.arange(test.sum()), found.asked, seed=0)
