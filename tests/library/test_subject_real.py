"""Both ways into the real model give the same numbers."""

import numpy as np
import pytest
import torch

from saelab.policy import KINDS, TokenPolicy
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
        for name in ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_in", "mlp.hook_post", "hook_resid_post")
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


def test_a_hook_of_the_bridge_alone_is_read_beside_one_of_the_fast_path(subject, tokens):
    got = subject.activations(tokens, ["blocks.3.attn.hook_q", "blocks.3.hook_resid_post"])
    assert [x.shape[2] for x in got.values()] == [576, 576]


def test_the_roles_of_a_conversation_are_told_from_the_template(subject):
    talk = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris. \n\nAsk me more."},
        {"role": "user", "content": "user"},
    ]
    ids, roles = subject.encode_chat(talk)
    policy = TokenPolicy(special_ids=subject.special_ids, bos_id=subject.bos_id)
    kinds = [KINDS[kind] for kind in policy.document_kinds(np.array(ids), roles)]
    assert kinds.count("bos") == 1, "though each turn begins with that token"
    said = {role: "".join(s for s, kind in zip(subject.strings(ids), kinds, strict=True) if kind == role) for role in set(kinds)}
    assert said["user"] == "What is the capital of France?user"
    assert said["assistant"] == "Paris. \n\nAsk me more."
    assert said["template"].startswith("system\nYou are a helpful AI assistant named SmolLM")
    assert set(kinds) == {"user", "assistant", "template", "bos", "special"}
    assert subject.tokenizer.decode(ids) == subject.chat_text(talk)
