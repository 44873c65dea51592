"""Text that was made into token ids before: rows of parquet, arrow and json files, numpy arrays, bare arrays."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from saelab.errors import Conflict, Corrupt, Invalid
from saelab.texts.base import TEXTS, Document, TextSource
from saelab.texts.rows import ROWS, column, find_files, read_rows
from saelab.values import value

_ARRAYS = (".npy", ".bin")
_BLOCK = 2**22
_SAELENS = "sae_lens.json"


@TEXTS.register("tokens")
@value
class Tokens(TextSource):
    """Token ids from parquet, arrow, jsonl and json files (a document a row), npy files and bare arrays (bin)."""

    paths: tuple[Path, ...]
    """Files, patterns, or folders of files."""
    ids_field: str = "input_ids"
    """Column of the rows that holds the ids."""
    separator: int | None = None
    """Id between the documents of an array with one axis; it belongs to none of them. An npy file with two axes needs none: a row is a
    document."""
    bin_dtype: Literal["uint16", "uint32", "int32"] = "uint16"
    """Number format of bin files, little-endian."""
    tokenizer: str | None = None
    """Model whose tokenizer made the ids; reading with another's is refused. None for what a `sae_lens.json` beside the files says."""
    max_documents: int | None = None
    """Documents to stop after; all without it."""

    def documents(self) -> Iterator[Document]:
        """The documents, file by file, each with its file's name as its domain.

        Raises `Invalid` for rows without ids and for an array that nothing divides into documents, `Corrupt` for a torn file, and what
        `Files` raises.
        """
        yield from islice(self._all(), self.max_documents)

    def _all(self) -> Iterator[Document]:
        for file, name in find_files(self.paths, (*_ARRAYS, *ROWS)):
            if file.name == _SAELENS:
                continue
            rows = self._array_rows(file) if file.suffix in _ARRAYS else self._file_rows(file)
            for number, ids in enumerate(rows):
                yield Document(key=f"{name}/{number}", domain=file.stem, ids=ids)

    def _file_rows(self, file: Path) -> Iterator[Int[np.ndarray, " pos"]]:
        for where, row in read_rows(file):
            yield _ids(column(row, self.ids_field, where), f"{where}, column {self.ids_field!r}")

    def _array_rows(self, file: Path) -> Iterator[Int[np.ndarray, " pos"]]:
        array = _mapped(file, self.bin_dtype)
        if array.dtype.kind not in "iu" or array.ndim > 2:
            raise Invalid(
                f"{file} holds an array of {array.dtype} with {array.ndim} axes, where whole numbers with one or two were expected."
            )
        if array.ndim == 2:
            yield from (_ids(row, f"{file}, row {number}") for number, row in enumerate(array))
        elif self.separator is None:
            raise Invalid(f"{file} holds one long row of ids. Say which id stands between two documents with separator.")
        else:
            yield from _divided(array, self.separator)

    @property
    def made_with(self) -> str | None:
        """The model that was named, or that the data set's own note names."""
        beside = [(path if path.is_dir() else path.parent) / _SAELENS for path in self.paths]
        notes = [json.loads(file.read_bytes()) for file in beside if file.is_file()]
        return self.tokenizer or next((str(note["tokenizer_name"]) for note in notes if "tokenizer_name" in note), None)


def _mapped(file: Path, dtype: str) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r") if file.suffix == ".npy" else np.memmap(file, np.dtype(dtype).newbyteorder("<"), "r")
    except ValueError as error:
        raise Corrupt(f"{file} is torn or not what its ending says: {error}. Make it again.") from None
    except OSError as error:
        raise Conflict(f"Cannot read {file}: {error.strerror or error}.") from None


def _divided(array: Int[np.ndarray, " token"], separator: int) -> Iterator[Int[np.ndarray, " pos"]]:
    """What stands between separators; never more than a block and a document in memory."""
    begin = 0
    for block in range(0, len(array), _BLOCK):
        for end in block + np.flatnonzero(array[block : block + _BLOCK] == separator):
            if end > begin:
                yield np.asarray(array[begin:end], dtype=np.int64)
            begin = int(end) + 1
    if begin < len(array):
        yield np.asarray(array[begin:], dtype=np.int64)


def _ids(found: Any, where: str) -> Int[np.ndarray, " pos"]:  # noqa: ANN401 - whatever the file holds
    ids = np.asarray(found)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise Invalid(f"{where}: expected a list of token ids, found {found!r:.80}.")
    return ids.astype(np.int64)
