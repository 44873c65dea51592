"""A matrix of vectors from a file: activations that come from no subject, such as embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float
from pyarrow import parquet
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saelab.activations.base import ActivationStore, Chunk, part_of
from saelab.corpus import TokenPolicy
from saelab.errors import Corrupt, Invalid, NotFound, unknown
from saelab.values import value

VECTORS = "vectors"
"""What stands in place of a hook."""
_CHUNK_ROWS = 2**15
_GOLDEN = 0.6180339887498949
_HELD_OUT = 0.1
_Reader = Callable[[int, int], Tensor]
"""Reads the rows from one number to before another."""


@value
class Vectors:
    """Which vectors."""

    file: str
    """An `.npy`, `.safetensors` or `.parquet` file with a matrix, a row a vector."""
    tensor: str | None = None
    """Name of the tensor (safetensors) or of the column of lists (parquet); needed where a file holds more than one."""


class VectorStore(ActivationStore):
    """The vectors of a file, memory-mapped, so that a file may be larger than the memory (parquet: read in parts).

    Each row counts as a window of its own. A tenth of the rows is held out, chosen by number: adding rows moves none of them.

    Arguments:
    - `vectors`: which vectors.

    Raises `NotFound` without the file or the named tensor, `Invalid` for what is no matrix of numbers, `Corrupt` for a torn file.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.file = Path(vectors.file)
        if not self.file.is_file():
            raise NotFound(f"There is no file {self.file}. Give an .npy, .safetensors or .parquet file with a matrix of vectors.")
        if self.file.suffix not in _OPENERS:
            raise Invalid(f"{self.file} ends in {self.file.suffix!r}. Vectors are read from {', '.join(_OPENERS)} files.")
        shape, dtype, self._rows_of = _OPENERS[self.file.suffix](self.file, vectors.tensor)
        if len(shape) != 2 or 0 in shape:
            raise Invalid(f"{self.file} holds an array of shape {list(shape)}. Expected a matrix [row, d_in] with one row at least.")
        if not dtype.startswith(("float", "bfloat", "halffloat", "double", "F", "BF")):
            raise Invalid(f"{self.file} holds numbers of type {dtype}. Expected floating-point numbers.")
        self._num_rows, self.d_in = shape
        self.hook, self.policy, self.max_norm = VECTORS, TokenPolicy(skip_first=0), None

    def chunk_rows(self, held_out: bool | None = None) -> tuple[int, ...]:
        """Rows of each chunk."""
        masks = [self._held_out(begin) for begin in range(0, self._num_rows, _CHUNK_ROWS)]
        return tuple(len(mask) if held_out is None else int((mask == held_out).sum()) for mask in masks)

    def chunk(self, number: int, held_out: bool | None = None) -> Chunk:
        """One chunk, or its part of one kind. Raises `Invalid` with the number of a row that is not finite."""
        begin = number * _CHUNK_ROWS
        mask = self._held_out(begin)
        x = self._rows_of(begin, begin + len(mask))
        strange = (~x.isfinite().all(dim=1)).nonzero()[:, 0]
        if len(strange):
            raise Invalid(
                f"Row {begin + int(strange[0]):,} of {self.file} holds a number that is not finite (rows are counted from 0). Leave such "
                "rows out."
            )
        rows = torch.arange(begin, begin + len(mask))
        return part_of(Chunk(x=x, window=rows, position=torch.zeros_like(rows)), mask, held_out)

    def described(self) -> dict[str, Any]:
        """The file: rows of one file belong together."""
        return {**super().described(), "file": str(self.file)}

    def _held_out(self, begin: int) -> Bool[Tensor, " row"]:
        """Which rows of a chunk are held out: multiples of the golden ratio lie evenly, whatever period the rows have."""
        numbers = torch.arange(begin, min(begin + _CHUNK_ROWS, self._num_rows), dtype=torch.float64)
        return (numbers + 1) * _GOLDEN % 1 < _HELD_OUT


def _npy(file: Path, tensor: str | None) -> tuple[tuple[int, ...], str, _Reader]:
    if tensor is not None:
        raise Invalid(f"{file} holds one array without a name. Leave out the tensor's name ({tensor!r}).")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Corrupt(f"{file} is torn or no .npy file: {error}") from None

    def read(begin: int, end: int) -> Float[Tensor, "row d_in"]:
        return _numbers(np.array(array[begin:end]))

    return array.shape, str(array.dtype), read


def _safetensors(file: Path, tensor: str | None) -> tuple[tuple[int, ...], str, _Reader]:
    try:
        opened = safe_open(file, framework="pt")
        names = list(opened.keys())
        name = _one(file, tensor, names)
        part = opened.get_slice(name)
    except SafetensorError as error:
        raise Corrupt(f"{file} is torn or no safetensors file: {error}") from None

    def read(begin: int, end: int) -> Float[Tensor, "row d_in"]:
        rows: Tensor = part[begin:end]
        return rows.float() if rows.dtype == torch.float64 else rows

    return tuple(part.get_shape()), part.get_dtype(), read


def _parquet(file: Path, tensor: str | None) -> tuple[tuple[int, ...], str, _Reader]:
    """A column of lists of one length. Its row groups are read as they are needed, so that they should not be large."""
    try:
        opened = parquet.ParquetFile(file, memory_map=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise Corrupt(f"{file} is torn or no parquet file: {error}") from None
    lists = {field.name: field.type.value_type for field in opened.schema_arrow if hasattr(field.type, "value_type")}
    name = _one(file, tensor, list(lists), "column of lists")
    sizes = [opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups)]
    ends = np.cumsum(sizes)

    def read(begin: int, end: int) -> Float[Tensor, "row d_in"]:
        groups = [number for number, last in enumerate(ends) if last > begin and last - sizes[number] < end]
        first = int(ends[groups[0]] - sizes[groups[0]])
        rows = opened.read_row_groups(groups, columns=[name]).column(name).slice(begin - first, end - begin).combine_chunks()
        lengths = pc.call_function("list_value_length", [rows]).fill_null(0).to_numpy()
        if (lengths != width).any():
            row = int((lengths != width).argmax())
            raise Invalid(f"Row {begin + row:,} of {file} has {lengths[row]} values, where the first has {width}. Expected a matrix.")
        return _numbers(rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), width))

    width = len(opened.read_row_group(0, columns=[name]).column(name)[0]) if sizes else 0
    return (sum(sizes), width), str(lists[name]), read


_OPENERS = {".npy": _npy, ".safetensors": _safetensors, ".parquet": _parquet}


def _numbers(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32) if array.dtype.itemsize > 2 else array.copy())


def _one(file: Path, name: str | None, names: list[str], what: str = "tensor") -> str:
    """The name that was given, or the only one there is."""
    if name is None and len(names) == 1:
        return names[0]
    if name is None:
        raise Invalid(f"{file} holds {len(names)} {what}s ({', '.join(sorted(names))}), where one matrix was expected. Name one.")
    if name not in names:
        raise unknown(f"{what} in {file}", name, names)
    return name
