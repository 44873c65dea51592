"""Surprisal: does the label make the feature's texts less surprising to the subject itself (Paulo et al. 2024)?

Windows are ranked by how many nats a token they lose after the label in front, in comparison with labels of other features in front. Any
base model will do:
it need not follow instructions. The null is the same with each other label in the place of the label.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from saelab.errors import Unscored
from saelab.features.excerpts import thinned
from saelab.features.views import ScoreView, Windows
from saelab.lab import Lab
from saelab.records import Label
from saelab.scorers.asking import prompt_hash
from saelab.scorers.base import SCORERS, Bench
from saelab.scorers.ranking import Ranked, Ranking
from saelab.values import value

PROMPT = "The following text is an example of: {label}\n\n"


@SCORERS.register("surprisal")
@value
class Surprisal(Ranked):
    """Ranks windows by what the label takes off the subject's loss on them."""

    nulls: int = 4
    """Labels of other features that the label is held against; each costs as much as the label itself."""
    min_nulls: int = 2
    """Labels of other features without which there is no score."""
    windows: int = 16
    """Windows of either side that are read."""

    def chosen(self, view: ScoreView) -> ScoreView:
        """A few of the windows: each is read once a label."""
        return thinned(view, self.windows, self.seed)

    def rank(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> Ranking:
        """By the loss after other labels minus that after the label. Raises `Unscored` without other labels."""
        if label is None or not label.input_clause:
            raise Unscored("the label does not say what the feature fires on")
        others = [other for other in nulls if other.input_clause]
        if len(others) < self.min_nulls:
            raise Unscored(f"there are {len(others)} labels of other features to hold it against, at least {self.min_nulls} are needed")
        windows = (view.positives, view.negatives)
        losses = np.array([_losses(bench.lab, item, windows) for item in (label, *others)])
        count = len(losses)
        spared = (losses.sum(0) - losses) / (count - 1) - losses
        split = len(view.positives)
        facts = {"model": bench.lab.subject.name, "prompt": prompt_hash(PROMPT)}
        return Ranking(up=spared[:, :split], down=spared[:, split:], facts=facts)


def _losses(lab: Lab, label: Label, windows: Sequence[Windows]) -> Float[np.ndarray, " window"]:
    """Mean loss on each window's tokens after the label, nats a token. The label is read once for all windows."""
    subject, policy = lab.subject, lab.policy
    begin = [policy.bos_id] if policy.prepend_bos and policy.bos_id is not None else []
    prefix = [*begin, *subject.encode(PROMPT.format(label=label.input_clause))]
    texts = [ids[ids >= 0].tolist() for part in windows for ids in part.texts.ids]
    kept = prefix[: max(1, subject.max_context - max(map(len, texts)))]
    return np.array([float(losses.mean()) for losses in subject.losses(kept, texts)])
