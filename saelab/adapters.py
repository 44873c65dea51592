"""Adapters: a LoRA folder in the format of the library PEFT, merged into a model's weights.

A weight `W` becomes `W + scale · B A`, with `scale = alpha / r`, or `alpha / sqrt(r)` for rank-stabilised LoRA (Hu et al. 2021,
arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732). Tensors that an adapter holds whole, such as biases, take the place of the model's.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from saelab.errors import Corrupt, Invalid, NotFound

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_A, _B = ".lora_A.weight", ".lora_B.weight"
_PREFIX = "base_model.model."


@torch.no_grad()
def merge_adapter(model: nn.Module, folder: Path) -> None:
    """Merges an adapter into the model, whose weights change in place.

    Raises `NotFound` where there is none, `Invalid` for an adapter that is no plain LoRA or not of this model, `Corrupt` for a torn file.
    """
    config, tensors = _read(folder)
    weights = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name = key.removeprefix(_PREFIX)
        if name.endswith(_B) and key.replace(_B, _A) in tensors:
            continue
        if name.endswith(_A) and key.replace(_A, _B) in tensors:
            name = name.removesuffix(_A)
            change = _scale(config, name, len(tensor)) * (tensors[key.replace(_A, _B)].float() @ tensor.float())
            change = change.T if config.get("fan_in_fan_out") else change
            weight = _weight(weights, f"{name}.weight", change, folder)
            weight.copy_(weight.float() + change)
        else:
            _weight(weights, name, tensor, folder).copy_(tensor)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (_CONFIG, _TENSORS):
        if not (folder / name).is_file():
            raise NotFound(f"There is no adapter in {folder}: {name} is missing. Give a LoRA folder as the library PEFT saves it.")
    try:
        config, tensors = json.loads((folder / _CONFIG).read_bytes()), load_file(folder / _TENSORS)
    except (ValueError, SafetensorError) as error:
        raise Corrupt(f"The adapter in {folder} is torn: {error}. Copy it again.") from None
    odd = [name for name in ("use_dora", "trainable_token_indices") if config.get(name)]
    if config.get("peft_type") != "LORA" or odd:
        what = odd[0] if odd else f"peft_type {config.get('peft_type')}"
        raise Invalid(
            f"The adapter in {folder} has {what}; only plain LoRA can be merged here. Merge it with PEFT and give the whole model."
        )
    return config, tensors


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    alpha = next((value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module)), config["lora_alpha"])
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _weight(weights: Mapping[str, nn.Parameter], name: str, like: Tensor, folder: Path) -> nn.Parameter:
    """The model's weight that an adapter's tensor is for."""
    if name not in weights or weights[name].shape != like.shape:
        has = f"has it in shape {list(weights[name].shape)}" if name in weights else "has none of that name"
        raise Invalid(f"The adapter in {folder} changes {name}, shape {list(like.shape)}; the model {has}. It belongs to another model.")
    return weights[name]
