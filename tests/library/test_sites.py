"""Hooks: what each reads and changes, in several families, and what TransformerLens says about the same."""

from pathlib import Path

import pytest
import torch
from tiny import CONFIGS, GROUPED, make_subject, save_model
from transformers import Olmo2Config

from saelab.errors import Invalid, NotFound
from saelab.sites import Port, Update
from saelab.subject import Subject, SubjectConfig

FAMILIES = {
    **{name: CONFIGS[name] for name in ("llama", "gemma2", "neox", "gpt2")},
    "olmo2": Olmo2Config(**GROUPED, bos_token_id=1, eos_token_id=0),
}
OURS = ("hook_update", "hook_z.")
"""Parts of the names that TransformerLens does not have."""


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(2, 50, (3, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=list(FAMILIES))
def loaded(request, tmp_path_factory) -> Subject:
    """A subject from a folder, so that it has a bridge."""
    folder = tmp_path_factory.mktemp("models") / request.param
    save_model(FAMILIES[request.param], folder)
    return Subject.load(SubjectConfig(model=str(folder), dtype="float32"))


@pytest.fixture(scope="module")
def llama() -> Subject:
    return make_subject("llama")


@pytest.mark.filterwarnings("ignore")
def test_every_hook_has_the_numbers_of_transformer_lens(loaded: Subject, tokens):
    hooks = [hook for hook in loaded.hooks() if hook.startswith("blocks.1.") and not any(part in hook for part in OURS)]
    assert {"blocks.1.hook_mlp_in", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out", "blocks.1.hook_attn_out"} <= set(hooks)
    fast = loaded.activations(tokens, hooks)
    loaded.bridge.set_use_hook_mlp_in(True)
    with torch.inference_mode():
        _, cache = loaded.bridge.run_with_cache(tokens, names_filter=hooks, prepend_bos=False)
    for hook in hooks:
        torch.testing.assert_close(fast[hook], cache[hook].reshape(fast[hook].shape), atol=1e-5, rtol=1e-4, msg=hook)


@pytest.mark.filterwarnings("ignore")
def test_hooks_of_the_bridge_alone_are_read_too(loaded: Subject, tokens):
    hooks = ["blocks.1.attn.hook_q", "blocks.0.hook_resid_post", "blocks.1.attn.hook_attn_in", "ln_final.hook_normalized"]
    got = loaded.activations(tokens, hooks)
    assert list(got) == hooks
    assert [x.shape for x in got.values()] == [(3, 10, 32), (3, 10, 32), (3, 10, 128), (3, 10, 32)]
    with pytest.raises(Invalid, match="not a vector for each token"):
        loaded.activations(tokens, ["blocks.1.attn.hook_pattern"])
    with pytest.raises(Invalid, match="can be read, through TransformerLens, but not changed"):
        loaded.logits(tokens, {"blocks.1.attn.hook_q": lambda x, _: x})
    with pytest.raises(NotFound, match=r"Did you mean .*blocks\.1\.attn\.hook_q"):
        loaded.activations(tokens, ["blocks.1.attn.hook_qq"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_update_is_what_a_block_adds(family: str, tokens, tmp_path: Path):
    subject = make_subject(family, FAMILIES[family])
    got = subject.activations(tokens, [f"blocks.1.hook_{name}" for name in ("resid_pre", "update", "resid_post")])
    before, update, after = got.values()
    assert torch.equal(update, after - before)
    both = subject.activations(tokens, ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"])
    torch.testing.assert_close(sum(both.values()), update, atol=1e-5, rtol=1e-5)


def test_a_change_of_the_update_changes_what_follows_and_a_change_of_nothing_does_not(llama: Subject, tokens):
    plain = llama.logits(tokens)
    assert torch.equal(llama.logits(tokens, {"blocks.1.hook_update": lambda x, _: x * 1}), plain)
    skipped = llama.logits(tokens, {"blocks.1.hook_update": lambda x, _: x * 0})
    before = {"blocks.2.hook_resid_pre": lambda x, _: llama.activations(tokens, ["blocks.1.hook_resid_pre"])["blocks.1.hook_resid_pre"]}
    torch.testing.assert_close(skipped, llama.logits(tokens, before), atol=1e-5, rtol=1e-5)


def test_a_change_in_the_middle_reaches_the_stream_and_one_of_the_mlp_input_only_the_mlp(llama: Subject, tokens):
    pushed = torch.randn(32, generator=torch.Generator().manual_seed(1))
    hooks = ["blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"]

    def read_under(hook: str) -> dict[str, torch.Tensor]:
        with llama.site(hook).changed(lambda x: x + pushed):
            return llama.activations(tokens, hooks[1:])

    middle = llama.activations(tokens, hooks[:1])[hooks[0]]
    for hook, stream in ((hooks[0], middle + pushed), ("blocks.1.hook_mlp_in", middle)):
        got = read_under(hook)
        torch.testing.assert_close(got[hooks[2]], stream + got[hooks[1]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read_under(hooks[0])[hooks[1]], read_under("blocks.1.hook_mlp_in")[hooks[1]])


def test_a_head_is_its_share_of_the_values_and_is_changed_alone(llama: Subject, tokens):
    names = [f"blocks.1.attn.hook_z.{head}" for head in range(4)]
    got = llama.activations(tokens, ["blocks.1.attn.hook_z", *names])
    z = got.pop("blocks.1.attn.hook_z")
    assert torch.equal(torch.cat(list(got.values()), dim=-1), z)
    with llama.site(names[2]).changed(lambda x: x + 1):
        changed = llama.activations(tokens, ["blocks.1.attn.hook_z"])["blocks.1.attn.hook_z"]
    assert torch.equal(changed - z != 0, (torch.arange(32) // 8 == 2).expand_as(z))
    with pytest.raises(NotFound, match=r"blocks\.1\.attn\.hook_z\.[0-3]"):
        llama.site("blocks.1.attn.hook_z.4")


def test_all_hooks_are_read_in_one_pass(llama: Subject, tokens):
    passes = []
    handle = llama.model.register_forward_hook(lambda *_: passes.append(1))
    ran = []
    other = llama.model.model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    got = llama.activations(tokens, llama.hooks())
    handle.remove()
    other.remove()
    assert list(got) == llama.hooks()
    assert len(ran) == 1
    assert not passes, "the pass ends before the head"


def test_the_sites_of_a_block_are_ports_and_updates(llama: Subject):
    assert isinstance(llama.site("blocks.0.hook_resid_pre"), Port)
    assert isinstance(llama.site("blocks.0.hook_update"), Update)


def test_more_positions_than_the_model_reads_are_refused(llama: Subject):
    with pytest.raises(Invalid, match=r"65 tokens; llama reads 64 at most"):
        llama.activations(torch.zeros(1, 65, dtype=torch.long), ["blocks.0.hook_resid_pre"])
