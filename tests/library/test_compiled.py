"""Compiled blocks: the same activations, and which blocks are compiled."""

from functools import partial

import pytest
import torch
from tiny import GROUPED, make_subject
from torch._dynamo.exc import BackendCompilerFailed
from transformers import LlamaConfig, masking_utils

from saelab import compiled
from saelab.compiled import CompiledBlocks, unasked, worth_compiling, worth_recording
from saelab.errors import Invalid
from saelab.sites import find_blocks

POST = "blocks.1.hook_resid_post"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch):
    """Compiling without the last step, which would take a minute here: what is traced is run operator by operator."""
    monkeypatch.setattr(compiled.torch, "compile", partial(torch.compile, backend="eager"))
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_compiled_blocks_give_the_same_activations_at_any_shape_from_one_program(traced: None, name: str):
    subject = make_subject(name)
    torch._dynamo.utils.counters.clear()
    for shape in ((3, 10), (5, 17), (4, 32)):
        tokens = torch.randint(2, 50, shape)
        for hooks in ([POST], [POST, "blocks.1.hook_mlp_out", "blocks.0.hook_update"]):
            plain, fast = subject.activations(tokens, hooks), subject.activations(tokens, hooks, compiled=True)
            for hook in hooks:
                torch.testing.assert_close(fast[hook], plain[hook], atol=1e-5, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    assert not torch._dynamo.utils.counters["graph_break"]
    assert all("forward" not in vars(block) for block in find_blocks(subject.model))


def test_a_block_that_is_read_inside_runs_as_it_is(monkeypatch: pytest.MonkeyPatch):
    subject = make_subject("llama")
    monkeypatch.setattr(compiled.torch, "compile", lambda forward, dynamic: forward)
    blocks = find_blocks(subject.model)
    for hooks, inside in (
        ([POST], []),
        (["blocks.0.hook_resid_pre", "blocks.2.attn.hook_z"], [2]),
        (["blocks.1.hook_resid_mid", POST], [1]),
    ):
        with CompiledBlocks(blocks).running(hooks):
            assert [number for number, block in enumerate(blocks) if "forward" not in vars(block)] == inside


def test_compiling_pays_for_many_tokens_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "find_spec", lambda name: name)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [worth_compiling(device, tokens) for device in (cpu, gpu) for tokens in (1000, 10**9)] == [False, False, False, True]
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    assert not worth_compiling(gpu, 10**9)
    monkeypatch.delenv("TORCH_COMPILE_DISABLE")
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    assert not worth_compiling(gpu, 10**9)


def test_a_failure_to_compile_says_how_to_do_without():
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler")

    blocks = CompiledBlocks([])
    with pytest.raises(Invalid, match=r"cannot be compiled here: .*no compiler.*TORCH_COMPILE_DISABLE=1"), blocks.running([POST]):
        raise BackendCompilerFailed(broken, RuntimeError("no compiler"), None)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "neox", "gpt2"])
def test_activations_are_the_same_where_nobody_asks_whether_windows_are_packed_even_while_a_pass_is_recorded(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    subject = make_subject(name)
    tokens, hooks = torch.randint(2, 50, (3, 10)), [POST, "blocks.2.hook_resid_post"]
    plain = subject.activations(tokens, hooks)
    asked: list[object] = []
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", asked.append)
    monkeypatch.setattr(masking_utils, "is_tracing", lambda *_: True)
    compiled._masks.cache_clear()
    masks: list[object] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def attend(*given: object, attn_mask: object = None, **named: object) -> object:
        masks.append(attn_mask)
        return real(*given, attn_mask=attn_mask, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    with unasked():
        found = subject.activations(tokens, hooks)
    assert all(torch.equal(found[hook], plain[hook]) for hook in hooks)
    assert not asked
    assert {*masks} <= {None}
    assert masking_utils.find_packed_sequence_indices == asked.append
    compiled._masks.cache_clear()


def test_transformers_still_has_the_functions_that_are_answered_for():
    assert set(compiled._masks()[1]) == {"find_packed_sequence_indices", "is_tracing"}


def test_passes_are_recorded_where_launches_count_and_nothing_is_decided_on_the_host(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "Recording", lambda step: step)
    subject = make_subject("llama")
    assert subject.recorded([POST])(torch.ones(2, 4, dtype=torch.long))[POST].shape == (2, 4, 32)
    assert subject.recorded([POST, "blocks.0.ln1.hook_scale"]) is None
    scaled = LlamaConfig(**GROUPED, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0})
    assert not worth_recording(make_subject("llama", scaled).model)
    monkeypatch.setattr(compiled, "_LAUNCHED", 100)
    assert subject.recorded([POST]) is None


def test_a_pass_that_cannot_be_recorded_is_told_with_how_to_do_without(monkeypatch: pytest.MonkeyPatch):
    def fails(_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand much more")

    monkeypatch.setattr(compiled, "Recording", lambda run: run)
    with pytest.raises(Invalid, match=r"cannot be recorded here: operation not .* capturing\. TORCH_COMPILE_DISABLE=1 runs them"):
        compiled.recorded(fails)(torch.zeros(1, 2))
    assert compiled.recorded(lambda tokens: tokens + 1)(torch.zeros(1, 2)).tolist() == [[1, 1]]
