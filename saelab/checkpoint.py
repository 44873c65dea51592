"""Checkpoints: the state of an unfinished training in one file, tensors beside facts, written whole or not at all."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saelab.errors import Conflict, Corrupt
from saelab.run import differences, remove, whole

CHECKPOINT_FILE = "checkpoint.safetensors"
"""State of an unfinished training."""
POINTER_FILE = "checkpoint.json"
"""The same of one whose features are divided among processes: names the shards that hold the tensors."""
SHARDS_FOLDER = "checkpoint"
"""Where they lie."""


def forget_checkpoint(folder: Path) -> None:
    """Deletes the state of an unfinished training."""
    for name in (CHECKPOINT_FILE, POINTER_FILE):
        remove(folder / name)
    shutil.rmtree(folder / SHARDS_FOLDER, ignore_errors=True)


def save_checkpoint(file: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes tensors, facts and the config that they belong to. Raises `Conflict` if the file cannot be written."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with whole(file) as half:
        save_file(tensors, half, {"state": json.dumps({**facts, "config": config})})


def load_checkpoint(file: Path, config: Mapping[str, Any], device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on a device, and the facts.

    Raises `Corrupt` for a file that is no checkpoint, and `Conflict` naming the fields where its config was another one.
    """
    try:
        with safe_open(file, framework="pt", device=str(device)) as opened:
            facts = json.loads(opened.metadata()["state"])
            state: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
            made_with = facts.pop("config")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{file}: not a checkpoint ({error}). Delete it to train from the beginning.") from None
    need_config(file, made_with, config)
    return state, facts


def need_config(file: Path, made_with: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises `Conflict` naming the fields where a checkpoint was made with another config than this."""
    changed = differences(made_with, json.loads(json.dumps(config)))
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise Conflict(f"{file} was made with another config:\n{lines}\nUse another folder, or delete the file to train anew.")


def tensors_of(state: Mapping[str, Tensor], prefix: str, names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that have these names behind a prefix. Raises `Conflict` naming one that another version did not save."""
    wanted = {name: f"{prefix}{name}" for name in names}
    missing = sorted(set(wanted.values()) - state.keys())
    if missing:
        raise Conflict(f"The checkpoint was made by another version of saelab: it lacks {', '.join(missing)}. Delete it to train anew.")
    return {name: state[key] for name, key in wanted.items()}
