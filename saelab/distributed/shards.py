"""Checkpoints of a dictionary whose features are divided among ranks: each writes what it holds, and any number of ranks can read it.

    checkpoint.json             step, facts and config; written last, so that its step is the one that is whole
    checkpoint/<step>/          safetensors of torch.distributed.checkpoint, a file a rank: slices with their places in the whole tensors

A single `checkpoint.safetensors` is read the same way.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from saelab.checkpoint import CHECKPOINT_FILE, POINTER_FILE, SHARDS_FOLDER, load_checkpoint, need_config
from saelab.errors import Corrupt
from saelab.run import cannot_write, write_atomically

_WHOLE = {"b_dec", "noise", "most"}
"""Parts of names of tensors that every rank has; those without axes are too."""


def is_divided(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of a training has a row a feature, by its name."""
    return tensor.ndim > 0 and not _WHOLE & set(name.split("."))


def point_to(folder: Path, step: int, facts: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Makes the shards of a step the checkpoint, and deletes all others."""
    files = len(list((folder / SHARDS_FOLDER / str(step)).iterdir()))
    write_atomically(folder / POINTER_FILE, json.dumps({"step": step, "files": files, "facts": facts, "config": config}) + "\n")
    for other in (folder / SHARDS_FOLDER).iterdir():
        if other.name != str(step):
            shutil.rmtree(other, ignore_errors=True)
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)


def load_shards(
    folder: Path, config: Mapping[str, Any], device: torch.device, mesh: DeviceMesh | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, or with a mesh this rank's part of them, and the facts.

    Raises `Corrupt` for shards that cannot be read, and `Conflict` naming the fields where their config was another one.
    """
    file = folder / POINTER_FILE
    try:
        pointer = json.loads(file.read_bytes())
        shards, facts, made_with = folder / SHARDS_FOLDER / str(pointer["step"]), pointer["facts"], pointer["config"]
        need_config(file, made_with, config)
        if (found := len(list(shards.iterdir()))) != pointer["files"]:
            raise ValueError(f"{shards} has {found} files, where {pointer['files']} were written")
        return _read(shards, device, mesh), facts
    except (OSError, KeyError, TypeError, ValueError, SafetensorError, CheckpointException) as error:
        raise Corrupt(f"{file}: not a checkpoint ({error}). Delete it to train from the beginning.") from None


def load_part(file: Path, config: Mapping[str, Any], device: torch.device, mesh: DeviceMesh) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """This rank's part of a checkpoint in one file, and the facts. Raises what `load_checkpoint` raises."""
    state, facts = load_checkpoint(file, config, torch.device("cpu"))
    rank, size = mesh.get_local_rank(), mesh.size()
    parts = {name: tensor.chunk(size)[rank].clone() if is_divided(name, tensor) else tensor for name, tensor in state.items()}
    return {name: tensor.to(device) for name, tensor in parts.items()}, facts


def write_shards(folder: Path, state: Mapping[str, Tensor], mesh: DeviceMesh) -> None:
    """Writes what this rank holds of the tensors, while all others do the same. Raises `Conflict` if it cannot be written."""
    parts = {name: _placed(tensor.detach(), mesh) if is_divided(name, tensor) else tensor.detach() for name, tensor in state.items()}
    try:
        save(parts, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:  # what each process met, by rank
        raise cannot_write(folder, OSError(str(next(iter(error.failures.values()))[0]))) from None


def load_weights(folder: Path, prefix: str) -> dict[str, Tensor]:
    """The whole tensors of a checkpoint in shards whose names begin with a prefix, without it, on the CPU."""
    step = json.loads((folder / POINTER_FILE).read_bytes())["step"]
    state = _read(folder / SHARDS_FOLDER / str(step), torch.device("cpu"), None, prefix)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _read(folder: Path, device: torch.device, mesh: DeviceMesh | None, prefix: str = "") -> dict[str, Tensor]:
    """Each rank reads the slices that it holds, from whichever files have them."""
    state: dict[str, Tensor] = {}
    known = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    for name, found in known.items():
        if not name.startswith(prefix):
            continue
        assert isinstance(found, TensorStorageMetadata), "safetensors hold tensors alone"
        whole = torch.empty(found.size, dtype=found.properties.dtype, device="meta")
        if mesh is None or not is_divided(name, whole):
            state[name] = torch.zeros_like(whole, device=device)
        else:
            state[name] = _placed(torch.zeros_like(whole.chunk(mesh.size())[0], device=device), mesh)
    with warnings.catch_warnings():  # that one process reads it alone is meant
        warnings.simplefilter("ignore")
        load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=mesh is None)
    return {name: tensor.to_local() if isinstance(tensor, DTensor) else tensor for name, tensor in state.items()}


def _placed(part: Tensor, mesh: DeviceMesh) -> DTensor:
    return DTensor.from_local(part, mesh, [Shard(0)], run_check=False)
