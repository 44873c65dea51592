"""Surprisal: does the label make the feature's texts less surprising to the subject itself (Paulo et al. 2024)?

Windows are ranked by how many nats a token they lose after the label in front, in comparison with labels of other features in front. Any
base model will do:
it need not follow instructions. The null is the same with each other label in the place of the label.
"""

from collections.abc import Sequence

import numpy as np
import torch
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
_BATCH = 8


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
        losses = np.array(
            [[*_losses(bench.lab, item, view.positives), *_losses(bench.lab, item, view.negatives)] for item in (label, *others)]
        )
        count = len(losses)
        spared = (losses.sum(0) - losses) / (count - 1) - losses
        split = len(view.positives)
        facts = {"model": bench.lab.subject.name, "prompt": prompt_hash(PROMPT)}
        return Ranking(up=spared[:, :split], down=spared[:, split:], facts=facts)


@torch.inference_mode()
def _losses(lab: Lab, label: Label, windows: Windows) -> Float[np.ndarray, " window"]:
    """Mean loss on each window's tokens after the label, nats a token."""
    subject, policy = lab.subject, lab.policy
    begin = [policy.bos_id] if policy.prepend_bos and policy.bos_id is not None else []
    prefix = [*begin, *subject.encode(PROMPT.format(label=label.input_clause))]
    found: list[float] = []
    for rows in np.array_split(np.arange(len(windows)), -(-len(windows) // _BATCH)):
        texts = [ids[ids >= 0].tolist() for ids in windows.texts.ids[rows]]
        longest = max(map(len, texts))
        kept = prefix[: max(1, subject.max_context - longest)]
        tokens = torch.tensor([[*kept, *ids, *[0] * (longest - len(ids))] for ids in texts])
        first = max(1, len(kept))  # nothing foretells a text's first token where no label stands before it
        scores = subject.logits(tokens)[:, first - 1 : -1].float().log_softmax(-1).cpu()
        picked = scores.gather(-1, tokens[:, first:, None])[..., 0]
        found += [-float(picked[row, : len(kept) + len(ids) - first].mean()) for row, ids in enumerate(texts)]
    return np.array(found)
