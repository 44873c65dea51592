"""LoRA folders, merged."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import CONFIGS, save_model

from saelab.errors import Corrupt, Invalid, NotFound
from saelab.subject import Subject, SubjectConfig

TOKENS = torch.tensor([[5, 9, 12, 7, 30]])
HOOKS = ["blocks.0.hook_attn_out", "blocks.1.hook_resid_post"]
GRAD = torch.Generator().manual_seed(0)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GRAD)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / request.param
    save_model(CONFIGS[request.param], folder)
    return folder


def _adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    folder.mkdir()
    known = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "fan_in_fan_out": False, "use_rslora": False}
    (folder / "adapter_config.json").write_text(json.dumps({**known, **config}))
    save_file({f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    return folder


def _layer(model: Path) -> tuple[str, int, bool]:
    """A linear layer that all have: its name, width out, and whether its weight lies transposed."""
    return ("model.layers.0.self_attn.q_proj", 32, False) if model.name == "llama" else ("transformer.h.0.attn.c_attn", 96, True)


def _load(model: Path, adapter: Path | None = None) -> Subject:
    return Subject.load(SubjectConfig(model=str(model), dtype="float32", adapter=None if adapter is None else str(adapter)))


@pytest.mark.parametrize(("config", "scale"), [({}, 3.0), ({"use_rslora": True}, 6 / 2**0.5), ({"alpha_pattern": {"0\\..*": 4}}, 2.0)])
def test_an_adapter_adds_its_product_to_the_weight(model: Path, tmp_path: Path, config: dict, scale: float):
    name, width, transposed = _layer(model)
    a, b = _random(2, 32), _random(width, 2)
    tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    adapter = _adapter(tmp_path / "Mine", tensors, fan_in_fan_out=transposed, **config)
    base, tuned = _load(model), _load(model, adapter)
    assert tuned.name == f"{model.name}-mine"
    was, now = base.model.get_submodule(name).weight, tuned.model.get_submodule(name).weight
    change = scale * (b @ a)
    torch.testing.assert_close(now - was, change.T if transposed else change, atol=1e-5, rtol=1e-4)

    x = _random(4, 32)
    torch.testing.assert_close(
        tuned.model.get_submodule(name)(x), base.model.get_submodule(name)(x) + scale * (x @ a.T @ b.T), atol=1e-3, rtol=1e-3
    )


@pytest.mark.filterwarnings("ignore")
def test_the_bridge_has_the_adapter_too(model: Path, tmp_path: Path):
    name, width, transposed = _layer(model)
    tensors = {f"{name}.lora_A.weight": _random(2, 32), f"{name}.lora_B.weight": _random(width, 2)}
    tuned = _load(model, _adapter(tmp_path / "mine", tensors, fan_in_fan_out=transposed))
    plain = _load(model).activations(TOKENS, HOOKS)
    _, cache = tuned.bridge.run_with_cache(TOKENS, names_filter=HOOKS, prepend_bos=False)
    for hook, x in tuned.activations(TOKENS, HOOKS).items():
        torch.testing.assert_close(x, cache[hook].detach(), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(x, plain[hook], atol=1e-3)


def test_tensors_that_are_held_whole_take_the_place_of_the_models(model: Path, tmp_path: Path):
    norm = "model.norm.weight" if model.name == "llama" else "transformer.ln_f.weight"
    tuned = _load(model, _adapter(tmp_path / "mine", {norm: torch.arange(32.0)}))
    assert torch.equal(tuned.model.get_parameter(norm), torch.arange(32.0))


def test_adapters_that_cannot_be_merged_are_refused(model: Path, tmp_path: Path):
    name, width, transposed = _layer(model)
    good = {f"{name}.lora_A.weight": _random(2, 32), f"{name}.lora_B.weight": _random(width, 2)}
    with pytest.raises(NotFound, match=r"adapter_config.json is missing"):
        _load(model, tmp_path)
    with pytest.raises(Invalid, match="use_dora; only plain LoRA"):
        _load(model, _adapter(tmp_path / "dora", good, use_dora=True))
    with pytest.raises(Invalid, match="peft_type IA3"):
        _load(model, _adapter(tmp_path / "ia3", good, peft_type="IA3"))
    with pytest.raises(Invalid, match="the model has it in shape .* It belongs to another model"):
        _load(model, _adapter(tmp_path / "wide", {**good, f"{name}.lora_A.weight": _random(2, 33)}, fan_in_fan_out=transposed))
    with pytest.raises(Invalid, match="the model has none of that name"):
        _load(model, _adapter(tmp_path / "other", {"model.layers.9.x.weight": _random(2)}))
    torn = _adapter(tmp_path / "torn", good)
    (torn / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(Corrupt, match="is torn"):
        _load(model, torn)


def test_a_revision_of_a_local_model_is_refused(model: Path):
    with pytest.raises(Invalid, match="has no revision 'main'"):
        Subject.load(SubjectConfig(model=str(model), revision="main"))
