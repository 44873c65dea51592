"""Scorers that run the subject: the quick ways give what the plain ones give."""

import numpy as np
import pytest
import torch

from saelab.features.excerpts import thinned
from saelab.features.views import Views
from saelab.lab import Lab
from saelab.records import Label
from saelab.scorers import output_effect, surprisal
from saelab.scorers.base import Bench


@pytest.fixture(scope="module")
def lab(toy_run) -> Lab:
    return Lab(toy_run)


@pytest.fixture(scope="module")
def view(lab):
    views = Views(lab.features)
    found = (views.score(index) for index in np.argsort(-lab.features.column("density")).tolist())
    return next(view for view in found if len(view.positives) > 6 and len(view.negatives) > 6)


def stating(clause: str, promoted: str = "") -> Label:
    return Label(text=clause, input_clause=clause, output_clause=f"promotes “{promoted}”", labeller="test")


def test_surprisal_is_the_loss_of_label_and_window_read_as_one(lab, view):
    label, windows = stating("the token “cat”"), (thinned(view, 5, 0).positives, thinned(view, 5, 0).negatives)
    begin = [lab.policy.bos_id] if lab.policy.prepend_bos and lab.policy.bos_id is not None else []
    prefix = [*begin, *lab.subject.encode(surprisal.PROMPT.format(label=label.input_clause))]
    plain = []
    for ids in (ids[ids >= 0].tolist() for part in windows for ids in part.texts.ids):
        scores = lab.subject.logits(torch.tensor([[*prefix, *ids]]))[0, len(prefix) - 1 : -1].log_softmax(-1)
        plain.append(-float(scores[range(len(ids)), ids].mean()))
    np.testing.assert_allclose(surprisal._losses(lab, label, windows), plain, rtol=1e-5)


def test_output_effect_is_what_whole_passes_give_at_the_strength_that_it_found(lab, view):
    scorer = output_effect.OutputEffect()
    promised = 5
    scores = scorer.score(stating("", lab.subject.vocabulary[promised]), view, [], Bench(Views(lab.features), lab))
    area, strength = scores[0].value, scores[-1].value
    tokens, _ = output_effect._contexts(thinned(view, scorer.windows // 2, scorer.seed), lab)
    mask = torch.arange(tokens.shape[1]).expand(tokens.shape) > 0
    hook, direction = lab.hook, lab.dictionary.directions[view.feature]
    edits = {hook: lambda x, where: x + strength * where[..., None] * direction}
    plain, after = (lab.subject.logits(tokens, e, mask)[:, 1:].log_softmax(-1) for e in ({}, edits))
    assert float((after.exp() * (after - plain)).sum(-1).mean()) == pytest.approx(scorer.kl, rel=0.06)
    gain = (after - plain).mean(1).double().mean(0)
    assert area == pytest.approx(float((gain[promised] > gain).sum() / (len(gain) - 1)), abs=2 / len(gain))


@pytest.mark.parametrize("power", [1.2, 2.0, 3.5])
def test_the_strength_that_reaches_a_kl_is_found_in_few_steps(power):
    asked = []

    def change(strength):
        asked.append(strength)
        return torch.zeros(1), 1e-4 * strength**power

    strength, _ = output_effect._reached(change, 1.0, 0.25)
    assert 1e-4 * strength**power == pytest.approx(0.25, rel=0.05)
    assert len(asked) <= 6


def test_areas_are_the_share_of_other_tokens_below_with_ties_by_half():
    gain, drawn = np.array([[0.0, 1, 1, 2, 3], [0, 0, 0, 0, 0]], np.float32), np.array([[1.0, 1.0], [0.0, 2.0]])
    np.testing.assert_allclose(output_effect._areas(drawn, gain, [1, 4]), [((1 + 0.5) / 3 + 1) / 2, 0.5])
