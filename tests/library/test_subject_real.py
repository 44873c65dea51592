"""Both ways into the real model give the same numbers."""

import pytest
import torch

from saelab.subject import Subject, SubjectConfig

pytestmark = pytest.mark.real
TEXT = "The committee on foreign affairs met in Geneva on Monday, and its report was printed in the evening papers."


@pytest.fixture(scope="module")
def subject():
    return Subject.load(SubjectConfig(model="smollm2-135m-instruct", dtype="float32"))


@pytest.fixture(scope="module")
def tokens(subject):
    return torch.tensor([subject.encode(TEXT)])


def test_the_bridge_gives_the_same_activations_and_logits(subject, tokens):
    hooks = [
        f"blocks.14.{name}"
        for name in ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out", "hook_resid_post")
    ]
    fast = subject.activations(tokens, hooks)
    with torch.inference_mode():
        logits, cache = subject.bridge.run_with_cache(tokens, names_filter=hooks, prepend_bos=False)
    for hook in hooks:
        theirs = cache[hook].reshape(fast[hook].shape)
        error = (fast[hook] - theirs).norm(dim=-1) / theirs.norm(dim=-1)
        assert float(error.max()) < 1e-4, hook
    torch.testing.assert_close(subject.logits(tokens), logits, atol=1e-3, rtol=1e-3)


def test_the_first_position_is_a_sink(subject, tokens):
    norms = subject.activations(tokens, ["blocks.14.hook_resid_post"])["blocks.14.hook_resid_post"][0].norm(dim=-1)
    assert norms[0] > 50 * norms[1:].median()


def test_the_tokenizer_adds_nothing_of_its_own(subject):
    assert not subject.adds_bos
    assert subject.decode(subject.encode(TEXT)) == TEXT
    assert "".join(subject.strings(subject.encode(TEXT))) == TEXT


def test_the_chat_template_ends_where_the_answer_begins(subject):
    text = subject.chat_text([{"role": "user", "content": "Hello"}], reply=True)
    assert text.endswith("<|im_start|>assistant\n")
    assert set(subject.encode(text)) & set(subject.special_ids)
