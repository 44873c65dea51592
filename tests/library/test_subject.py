"""The subject: hooks under TransformerLens names, edits, generation."""

import pytest
import torch
from tiny import CONFIGS, make_subject

from saelab.errors import Invalid, NotFound
from saelab.subject import Subject


@pytest.fixture(scope="module", params=list(CONFIGS))
def subject(request) -> Subject:
    return make_subject(request.param)


@pytest.fixture
def tokens():
    return torch.randint(2, 50, (3, 10), generator=torch.Generator().manual_seed(0))


def test_the_residual_stream_is_the_hidden_states(subject, tokens):
    states = subject.model(tokens, output_hidden_states=True).hidden_states
    hooks = [f"blocks.{i}.hook_resid_{place}" for i in range(2) for place in ("pre", "post")]
    found = subject.activations(tokens, hooks)
    for i in range(2):
        torch.testing.assert_close(found[f"blocks.{i}.hook_resid_pre"], states[i])
        torch.testing.assert_close(found[f"blocks.{i}.hook_resid_post"], states[i + 1])


def test_the_parts_of_a_block_add_up(subject, tokens):
    hooks = [f"blocks.1.{name}" for name in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")]
    found = subject.activations(tokens, hooks)
    pre, attention, mlp, post = (found[hook] for hook in hooks)
    torch.testing.assert_close(pre + attention + mlp, post, atol=1e-5, rtol=1e-5)
    if subject.name != "neox":
        middle = subject.activations(tokens, ["blocks.1.hook_resid_mid"])["blocks.1.hook_resid_mid"]
        torch.testing.assert_close(pre + attention, middle, atol=1e-5, rtol=1e-5)


def test_a_forward_pass_ends_after_the_last_hook(subject, tokens):
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(subject.site(h).module for h in subject.hooks() if h.endswith("resid_post"))
    ]
    subject.activations(tokens, ["blocks.1.hook_resid_post"])
    for handle in handles:
        handle.remove()
    assert 2 not in ran


def test_padding_on_the_right_changes_nothing(subject, tokens):
    hook = "blocks.1.hook_resid_post"
    padded = torch.cat([tokens, torch.full((3, 4), 7)], dim=1)
    torch.testing.assert_close(
        subject.activations(padded, [hook])[hook][:, :10], subject.activations(tokens, [hook])[hook], atol=1e-5, rtol=1e-5
    )


def test_an_unknown_hook_is_answered_with_close_matches(subject, tokens):
    with pytest.raises(NotFound, match=r"blocks\.1\.hook_resid_post"):
        subject.activations(tokens, ["blocks.1.hook_resid_pots"])


def test_an_edit_changes_only_where_it_may(subject, tokens):
    mask = torch.zeros(3, 10, dtype=torch.bool)
    mask[1, 4:] = True
    plain = subject.logits(tokens)
    edited = subject.logits(tokens, {"blocks.1.hook_resid_post": lambda x, m: torch.where(m[..., None], x + 1, x)}, mask)
    assert torch.equal(plain[0], edited[0])
    assert torch.equal(plain[1, :4], edited[1, :4])
    assert not torch.allclose(plain[1, 4], edited[1, 4])


def test_rows_without_edits_write_what_generate_writes(subject):
    prompt = [5, 9, 12, 7]
    ours = list(subject.generate(prompt, [{}, {}], editable=[True] * 4, max_tokens=8))
    theirs = subject.model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, pad_token_id=0)[0, 4:].tolist()
    theirs = [t for t in theirs if t != 0]
    assert [row[0] for row in ours] == theirs[: len(ours)]
    assert all(a == b for a, b in ours)


def test_rows_draw_with_the_same_random_numbers(subject):
    rows = list(subject.generate([5, 9, 12], [{}, {}, {}], editable=[True] * 3, max_tokens=12, temperature=1.5, seed=3))
    again = list(subject.generate([5, 9, 12], [{}], editable=[True] * 3, max_tokens=12, temperature=1.5, seed=3))
    assert all(len(set(row)) == 1 for row in rows)
    assert [row[0] for row in rows] == [row[0] for row in again]
    assert len({row[0] for row in rows}) > 3


def test_an_edit_of_one_row_leaves_the_other_alone(subject):
    push = {
        "blocks.1.hook_resid_post": lambda x, m: torch.where(
            m[..., None], x + 30 * torch.randn(32, generator=torch.Generator().manual_seed(1)), x
        )
    }
    both = list(subject.generate([5, 9, 12], [{}, push], editable=[False, True, True], max_tokens=8))
    alone = list(subject.generate([5, 9, 12], [{}], editable=[True] * 3, max_tokens=8))
    assert [row[0] for row in both][: len(alone)] == [row[0] for row in alone][: len(both)]
    assert any(a != b for a, b in both)


def test_a_prompt_that_is_too_long_is_refused(subject):
    with pytest.raises(Invalid, match="64"):
        next(subject.generate([5] * 60, [{}], editable=[True] * 60, max_tokens=10))


def test_a_subject_without_template_refuses_chat(subject):
    with pytest.raises(Invalid, match="chat template"):
        subject.chat_text([{"role": "user", "content": "5 6"}])


def test_the_logit_lens_of_the_last_residual_is_the_prediction(subject, tokens):
    if subject.name == "gemma2":
        pytest.skip("Gemma 2 caps its logits after the unembedding")
    hook = "blocks.2.hook_resid_post"
    lens = subject.unembed(subject.activations(tokens, [hook])[hook])
    torch.testing.assert_close(lens, subject.logits(tokens), atol=1e-4, rtol=1e-4)
