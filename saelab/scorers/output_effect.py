"""Output effect: does the feature, made stronger, raise the tokens that its label says it promotes?

The feature's direction is added on held-out text with the strength at which the predictions move by a given KL divergence, found by steps
that take KL to grow with a power of the strength. So are random directions: at matched KL none does more than another (effects at a
given KL as in Gur-Arieh et al. 2025, arXiv 2501.08319). The score is the AUROC of the promised tokens among all tokens by their mean gain
of log-probability. The null is the same for the random directions.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.errors import Unscored
from saelab.features.excerpts import thinned
from saelab.features.views import ScoreView
from saelab.lab import Lab
from saelab.records import Label, Score
from saelab.scorers.base import SCORERS, Bench, Scorer
from saelab.values import value

_TOKEN = re.compile(r"“(.*?)”")
_STEPS, _CLOSE = 12, 0.05
_CONTEXT = 16
_TOP = 10


@SCORERS.register("output_effect")
@value
class OutputEffect(Scorer):
    """Steers with the feature, and with random directions at the same KL, and looks for the promised tokens."""

    kl: float = 0.25
    """Mean KL divergence of the steered predictions from the plain ones, nats a token."""
    random: int = 4
    """Random directions that make the null."""
    windows: int = 8
    """Windows on which it steers: half of them with the feature, half without."""
    nulls: int = 0
    """Not used: the null is that of random directions."""

    @property
    def metric(self) -> str:
        """The headline: area under the ROC curve of the promised tokens."""
        return "auroc"

    def score(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> tuple[Score, ...]:
        """The AUROC with null and lift; the share of promised tokens among the ten raised most; the strength. Raises `Unscored`."""
        lab = bench.lab
        promised = _promised(label, lab)
        self.need_windows(view)
        if len(lab.origin.written_hooks) > 1:
            raise Unscored("the dictionary writes at several hooks, where no one strength can be matched")
        own = lab.dictionary.directions[view.feature].detach().float().cpu()
        generator = torch.Generator().manual_seed(self.seed)
        directions = [own, *torch.nn.functional.normalize(torch.randn(self.random, len(own), generator=generator), dim=1)]
        tokens, documents = _contexts(thinned(view, max(1, self.windows // 2), self.seed), lab)
        gains, strength = _at_kl(lab, tokens, directions, self.kl)
        drawn = self.document_draws(documents, view.feature)
        areas = np.stack([_areas(drawn, gain, promised) for gain in gains], axis=1)
        raised = np.argsort(-gains[0].mean(0), kind="stable")[:_TOP]
        facts = {"n": len(documents), "model": lab.subject.name, "insufficient": False}
        share = float(np.isin(promised, raised).mean())
        return (
            self.lifted("auroc", areas, view, **facts),
            self.made("promised_in_top", share, view, **facts),
            self.made("strength", strength, view, **facts),
        )


def _promised(label: Label | None, lab: Lab) -> list[int]:
    """Ids of the tokens that a label says are promoted."""
    clause = label.output_clause if label is not None else ""
    known = {text: number for number, text in reversed(list(enumerate(lab.subject.vocabulary)))}
    named = [text.replace("⏎", "\n").replace("⇥", "\t") for text in _TOKEN.findall(clause)]
    found = [known[text] for text in dict.fromkeys(named) if text in known]
    if not found:
        raise Unscored("the label names no token that the feature promotes")
    return found


def _contexts(view: ScoreView, lab: Lab) -> tuple[Tensor, np.ndarray]:
    """Token ids of some windows, cut to one length, and their documents."""
    policy = lab.policy
    begin = [policy.bos_id] if policy.prepend_bos and policy.bos_id is not None else []
    texts = [[*begin, *ids[ids >= 0].tolist()] for part in (view.positives, view.negatives) for ids in part.texts.ids]
    documents = np.concatenate([view.positives.document, view.negatives.document])
    length = min(_CONTEXT, *map(len, texts))
    if length < 2:
        raise Unscored("the windows of the score documents are too short to steer on")
    return torch.tensor([ids[-length:] for ids in texts]), documents


@torch.inference_mode()
def _at_kl(
    lab: Lab, tokens: Int[Tensor, "window pos"], directions: Sequence[Float[Tensor, " d"]], kl: float
) -> tuple[list[Float[np.ndarray, "window vocab"]], float]:
    """What each direction, at the strength that reaches the KL, adds to the log-probability of every token, mean over each window; and
    the strength of the first.
    """
    subject, (hook,) = lab.subject, lab.origin.written_hooks
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    with subject.begun(tokens, hook) as x:
        plain = subject.logits(tokens)[:, 1:].float().log_softmax(-1)

        def change(direction: Tensor, strength: float) -> tuple[Float[Tensor, "window pos vocab"], float]:
            """The log-probabilities' change, and the KL divergence."""

            def edit(x: Tensor, where: Tensor) -> Tensor:
                return x + strength * where[..., None].to(x.dtype) * direction.to(x)

            after = subject.logits(tokens, {hook: edit}, mask)[:, 1:].float().log_softmax(-1)
            gain = after - plain
            return gain, max(1e-9, float(after.exp_().flatten() @ gain.flatten()) / gain[..., 0].numel())

        strength, strengths, gains = 0.1 * float(x.float().norm(dim=-1).mean()), list[float](), list[np.ndarray]()
        for direction in directions:  # each begins where the last one ended: they lie near each other
            strength, gain = _reached(partial(change, direction), strength, kl)
            strengths.append(strength)
            gains.append(gain.mean(1).cpu().numpy())
    return gains, strengths[0]


def _reached(change: Callable[[float], tuple[Tensor, float]], strength: float, kl: float) -> tuple[float, Tensor]:
    """The strength that reaches a KL, and the change there. The first step takes KL to grow with the square of the strength, the others
    with the power that the last two have shown.
    """
    power, gain, reached = 2.0, *change(strength)
    for _ in range(_STEPS - 1):
        if abs(reached / kl - 1) < _CLOSE:
            break
        before, factor = reached, min(8.0, max(0.125, (kl / reached) ** (1 / power)))
        strength *= factor
        gain, reached = change(strength)
        power = min(4.0, max(0.5, math.log(reached / before) / math.log(factor)))
    return strength, gain


def _areas(drawn: Float[np.ndarray, "draw window"], gain: Float[np.ndarray, "window vocab"], promised: list[int]) -> np.ndarray:
    """AUROC of some tokens among all by their mean gain, for each draw of windows."""
    gain, rest = gain.astype(np.float64), gain.shape[1] - len(promised)
    found = np.empty(len(drawn))
    for row, weights in enumerate(drawn):
        mean = weights @ gain
        own = mean[promised]
        found[row] = (_below(mean, own) - _below(own, own)).mean() / rest
    return found


def _below(values: Float[np.ndarray, " n"], some: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """How many of the values are below each of some, those equal to it by half."""
    return np.array([np.count_nonzero(values < one) + np.count_nonzero(values == one) / 2 for one in some])
