"""Files of tensors: read whole, and held against the names and shapes that they must have."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from saelab.errors import Corrupt, NotFound


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises `NotFound` or `Corrupt` naming it."""
    if not file.is_file():
        raise NotFound(f"{file} is missing, though its settings are there. Copy the whole folder, or train the dictionary again.")
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: cast("Tensor", opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise Corrupt(f"{file}: truncated or not a safetensors file ({error}). Copy it again, or train the dictionary again.") from None


def checked_tensors(file: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a file in float32. Raises `Corrupt` where they are not those that are expected, by name and shape, or not finite."""
    for name in sorted({*shapes, *tensors}):
        if name not in tensors:
            raise Corrupt(f"{file}: tensor {name} of shape {list(shapes[name])} is missing. It holds {', '.join(sorted(tensors))}.")
        if name not in shapes:
            raise Corrupt(f"{file}: unexpected tensor {name}. Expected {', '.join(sorted(shapes))}.")
        if tuple(tensors[name].shape) != shapes[name]:
            raise Corrupt(f"{file}: tensor {name} has shape {list(tensors[name].shape)}; its settings say {list(shapes[name])}.")
        if not bool(tensors[name].isfinite().all()):
            raise Corrupt(f"{file}: tensor {name} holds values that are not finite. Train the dictionary again.")
    return {name: tensor.float() for name, tensor in tensors.items()}
