"""Passes that share what they have in common give what passes over everything give."""

import numpy as np
import pytest
import torch
from tiny import CONFIGS, make_subject

from saelab.errors import Invalid
from saelab.subject import Subject


@pytest.fixture(scope="module", params=list(CONFIGS))
def subject(request) -> Subject:
    return make_subject(request.param)


def draw(*shape: int) -> torch.Tensor:
    return torch.randint(2, 50, shape, generator=torch.Generator().manual_seed(0))


def test_texts_after_one_prefix_lose_what_they_lose_when_read_with_it(subject, monkeypatch):
    monkeypatch.setattr("saelab.passes._LOGITS", 2 * 9 * subject.model.config.get_text_config().vocab_size)
    prefix, texts = draw(7).tolist(), [draw(9)[: 9 - short].tolist() for short in (0, 3, 8, 1, 0)]
    for ids, losses in zip(texts, subject.losses(prefix, texts), strict=True):
        scores = subject.logits(torch.tensor([[*prefix, *ids]]))[0, 6:-1].log_softmax(-1)
        torch.testing.assert_close(losses, -scores[range(len(ids)), ids], atol=1e-5, rtol=1e-5)


def test_a_prefix_that_leaves_no_room_is_refused(subject):
    with pytest.raises(Invalid, match="reads"):
        subject.losses([2] * subject.max_context, [[3]])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_pass_that_begins_at_a_hook_gives_what_the_whole_pass_gives(subject, number):
    tokens, hook, ran = draw(3, 10), f"blocks.{number}.hook_resid_post", []
    edits = {hook: lambda x, mask: x + mask[..., None] * torch.arange(x.shape[-1])}
    mask = torch.arange(10).expand(3, 10) > 0
    plain, edited = subject.logits(tokens), subject.logits(tokens, edits, mask)
    handle = subject.site("blocks.0.hook_mlp_out").module.register_forward_hook(lambda *_: ran.append(1))
    with subject.begun(tokens, hook) as x:
        torch.testing.assert_close(x, subject.activations(tokens, [hook])[hook])
        ran.clear()
        torch.testing.assert_close(subject.logits(tokens), plain)
        torch.testing.assert_close(subject.logits(tokens, edits, mask), edited)
        assert bool(ran) == (number == 0), "blocks before the hook rest"
    handle.remove()
    torch.testing.assert_close(subject.logits(tokens), plain)
    other = draw(2, 4) + 1
    assert np.isfinite(subject.logits(other).numpy()).all()
