"""Steering: two texts of one batch, streamed, with dose and KL read back."""

from types import SimpleNamespace

import pytest
import torch
from tiny import make_subject

from saelab.corpus import TokenPolicy
from saelab.errors import Invalid
from saelab.provenance import Provenance
from saelab.records import Completion, Intervention, SteerRequest
from saelab.saes.topk import TopK
from saelab.steering import first_difference, steer, stream_steer


@pytest.fixture(scope="module")
def lab():
    subject = make_subject("llama")
    dictionary = TopK(32, TopK.Config(d_sae=64, k=8))
    dictionary.initialise(torch.randn(500, 32, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0))
    hook = "blocks.1.hook_resid_post"
    dictionary.provenance = Provenance(model="tiny", hook=hook, context=16, prepend_bos=False, skip_first=1, special_ids=(0, 1))
    return SimpleNamespace(
        subject=subject,
        policy=TokenPolicy(context=16, special_ids=(0, 1)),
        hook=hook,
        origin=dictionary.provenance,
        rows=lambda tokens: subject.activations(tokens, [hook])[hook],
        dictionary=dictionary,
        max_acts=lambda features: dict.fromkeys(features, 2.0),
    )


def request(strength=5.0, op="add", **fields):
    return SteerRequest(prompt="5 9 12 7", interventions=(Intervention(feature=3, op=op, strength=strength),), max_tokens=12, **fields)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("op", "strength"), [("add", 0.0), ("scale", 1.0)])
def test_a_change_of_nothing_writes_the_same_tokens(lab, op, strength, temperature):
    found = steer(lab, request(strength, op, temperature=temperature))
    assert found.base == found.steered
    assert found.first_difference is None
    assert found.dose == 0
    assert found.kl == pytest.approx(0, abs=1e-6)


def test_a_strong_change_changes_the_text_and_is_read_back(lab):
    found = steer(lab, request(20.0))
    assert found.steered != found.base
    assert found.dose > 0.5
    assert found.kl > 0.01


def test_the_dose_grows_with_the_strength(lab):
    doses = [steer(lab, request(strength, edit_prompt=True)).dose for strength in (1.0, 2.0, 4.0)]
    assert doses == sorted(doses)
    assert doses[0] > 0


def test_the_base_text_does_not_depend_on_the_change(lab):
    assert steer(lab, request(20.0)).base == steer(lab, request(0.0)).base


def test_the_stream_spells_both_texts_and_ends_with_the_completion(lab):
    *tokens, last = stream_steer(lab, request(20.0))
    assert isinstance(last, Completion)
    for name in ("base", "steered"):
        assert "".join(token.token for token in tokens if token.text == name) == getattr(last, name)


def test_only_the_generated_tokens_are_changed_when_asked(lab):
    touched = []
    site = lab.subject.site(lab.hook)
    with site.watched(lambda x: touched.append(x.clone())):
        steer(lab, request(20.0, edit_prompt=False))
    prompt = touched[0]
    assert torch.equal(prompt[0], prompt[1])


def test_the_first_position_is_left_alone(lab):
    after = []
    later = lab.subject.site("blocks.2.hook_resid_pre")
    with later.watched(lambda x: after.append(x.clone())):
        steer(lab, request(20.0))
    assert torch.equal(after[0][0, 0], after[0][1, 0])
    assert not torch.equal(after[0][0, 1], after[0][1, 1])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"interventions": ()}, "no intervention"),
        ({"prompt": ""}, "empty"),
    ],
)
def test_a_request_that_cannot_be_is_refused_before_the_first_token(lab, fields, words):
    given = {"prompt": "5 9", "interventions": (Intervention(feature=3, op="add"),), "max_tokens": 4, **fields}
    with pytest.raises(Invalid, match=words):
        next(stream_steer(lab, SteerRequest(**given)))


def test_the_first_difference_counts_the_end_of_a_text():
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2
