"""Features taken away before a linear probe reads the mean activation of a text.

    effect of a feature on a probe   e_f = (mean z_f with - mean z_f without) · (w · d_f)
    the probe's answer without F     w·x + b - Σ_F (z_f - c_f) (w · d_f)        c_f = 0, or the mean of z_f over the training texts

x and z are means over the tokens of a text, so that both are exact for a change on every token with the rest of the activation kept.

With c_f = 0 (Marks et al. 2024, https://arxiv.org/abs/2403.19647; Karvonen et al. 2024, https://arxiv.org/abs/2411.18895) the mean over all
texts moves as well, and with it all answers against the probe's threshold: accuracy changes though nothing was forgotten. The mean in
place of 0 takes away what tells texts apart and leaves the threshold where it was.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from saelab.analyses.logistic import Model, fit, picked
from saelab.analyses.ranking import draws_of
from saelab.analyses.rows import CodeMatrix

To = Literal["zero", "mean"]
"""What a feature is set to that is taken away."""
TO: tuple[To, ...] = ("zero", "mean")
_PENALTY = 10.0


def probe(x: Float[np.ndarray, "text d"], positive: Bool[np.ndarray, " text"]) -> Model:
    """A linear probe on the whole activation."""
    return fit(x, positive, None, (_PENALTY,))[0]


def normal(model: Model) -> Float[np.ndarray, " d"]:
    """w: how much each unit of the activation adds to a probe's answer."""
    return model.weights / model.scale


def effects(
    codes: CodeMatrix, positive: Bool[np.ndarray, " text"], pull: Float[np.ndarray, " feature"], above: bool = False
) -> Float[np.ndarray, " feature"]:
    """e_f of each feature on training texts; 0 for one that fires more without, if only those `above` are asked for."""
    with_it, without = (np.asarray(codes[np.flatnonzero(kind)].mean(0)).ravel() for kind in (positive, ~positive))
    gap = with_it - without
    return (np.maximum(gap, 0) if above else gap) * pull


def strongest(effect: Float[np.ndarray, " feature"], n: int) -> Int[np.ndarray, " n"]:
    """The n features of largest effect."""
    return np.argsort(-effect, kind="stable")[:n]


@dataclass(frozen=True)
class Ablation:
    """Test texts, the answers of probes on them, and what each feature of a dictionary adds to the answers."""

    answers: Float[np.ndarray, "text probe"]
    """Answers in log odds, with every feature in place."""
    codes: CodeMatrix
    """Mean codes `[text feature]`."""
    pulls: Float[np.ndarray, "feature probe"]
    """w · d_f."""
    centre: Float[np.ndarray, " feature"]
    """Mean of each code over the training texts."""
    alive: Int[np.ndarray, " some"]
    """Features that fire on any of the training texts."""

    def without(self, features: Int[np.ndarray, " n"], to: To) -> Float[np.ndarray, "text probe"]:
        """The answers with some features taken away."""
        z = picked(self.codes, features) - (self.centre[features] if to == "mean" else 0.0)
        return self.answers - z @ self.pulls[features]

    def some(self, n: int, draws: int, seed: int) -> list[Int[np.ndarray, " n"]]:
        """Draws of n random features that are alive: the null of any choice."""
        draw = np.random.default_rng((seed, n))
        return [draw.choice(self.alive, n, replace=False) for _ in range(draws)]


def ablation(
    x: Float[np.ndarray, "text d"],
    codes: CodeMatrix,
    directions: Float[np.ndarray, "feature d"],
    probes: list[Model],
    train: Int[np.ndarray, " train"],
    test: Int[np.ndarray, " test"],
) -> Ablation:
    """Some texts for the tests of probes.

    Arguments:
    - `train`: texts that the means of codes are taken over.
    - `test`: texts that are asked.
    """
    of_training = codes[train]
    return Ablation(
        answers=np.stack([one.scores(x[test]) for one in probes], axis=1),
        codes=codes[test],
        pulls=directions @ np.stack([normal(one) for one in probes], axis=1),
        centre=np.asarray(of_training.mean(0)).ravel(),
        alive=np.flatnonzero(np.diff(of_training.tocsc().indptr)),
    )


class Accuracies:
    """Accuracies on test texts, and on bootstrap draws of the documents that they come from.

    Arguments:
    - `group`: what each text is drawn with.
    - `asked`: which texts each of some accuracies is over.
    """

    def __init__(self, group: Int[np.ndarray, " text"], asked: Bool[np.ndarray, "text part"], seed: int) -> None:
        of_text, weights = draws_of(group, seed)
        self._weights, self._asked = weights[:, of_text], asked.astype(float)
        self.n = weights.shape[1]

    def of(self, right: Float[np.ndarray, "text part"] | Bool[np.ndarray, "text part"]) -> Float[np.ndarray, "draw part"]:
        """The share of right answers in each part: on all documents first, then on each draw; NaN where a draw has none of a part."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self._weights @ (right * self._asked)) / (self._weights @ self._asked)
