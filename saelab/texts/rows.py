"""Rows of files: jsonl, json, parquet, arrow; and which files a source is to read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saelab.errors import Conflict, Corrupt, Invalid, NotFound

ROWS = (".jsonl", ".json", ".parquet", ".arrow")
"""Endings of the files that hold rows."""


def find_files(paths: tuple[Path, ...], endings: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """The files among the paths, in the folders among them and under the patterns among them, each with its name.

    A name is the file's place below the folder of the path given, or below the part of a pattern that is none.

    Raises `NotFound` for a path that does not exist or a folder or pattern without such files, `Invalid` for a file of another kind, for no
    paths and for two paths that end in the same name.
    """
    roots = [_root(path) for path in paths]
    names = [root.resolve().name for root in roots]
    if not paths:
        raise Invalid("No files were given. Give files or folders with paths.")
    if len(set(names)) < len(names):
        raise Invalid(f"Two of the paths end in the same name: {', '.join(sorted(names))}. Rename one, or give the folder that holds both.")
    for path, root in zip(paths, roots, strict=True):
        if not root.exists():
            raise NotFound(f"There is no file or folder {root}.")
        if path.is_file() and path.suffix not in endings:
            raise Invalid(f"{path} is not a kind of file that can be read here. Known endings: {', '.join(endings)}.")
        pattern = str(path.relative_to(root)) if path != root else "**/*"
        found = [path] if path.is_file() else sorted(file for file in root.glob(pattern) if file.suffix in endings and file.is_file())
        if not found:
            raise NotFound(f"{'The folder ' if path == root else ''}{path} holds no file that ends in {', '.join(endings)}.")
        yield from ((file, file.resolve().relative_to(root.resolve().parent).as_posix()) for file in found)


def _root(path: Path) -> Path:
    """The path, or the part of a pattern before its first part with a wildcard."""
    wild = next((i for i, part in enumerate(path.parts) if set(part) & set("*?[")), None)
    return path if wild is None or path.exists() else Path(*path.parts[:wild])


def column(row: Any, name: str, where: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """The value of a row's column. Raises `Invalid` naming the columns that exist."""
    if not isinstance(row, dict):
        raise Invalid(f"{where} holds {type(row).__name__}, where an object with a column {name!r} was expected.")
    if name not in row:
        raise Invalid(f"{where} has no column {name!r}. Columns there: {', '.join(map(str, row)) or 'none'}.")
    return row[name]


def read_lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file. Raises `Corrupt` with the byte at which it is not UTF-8, `Conflict` where it may not be read."""
    offset = 0
    try:
        with file.open("rb") as opened:
            for line in opened:
                yield line.decode("utf-8-sig" if offset == 0 else "utf-8")
                offset += len(line)
    except UnicodeDecodeError as error:
        raise Corrupt(
            f"{file} is not UTF-8 text: byte {error.object[error.start]:#04x} at offset {offset + error.start:,}. "
            f"Convert it first, for example: iconv -f latin1 -t utf-8 {file.name} > utf8-{file.name}"
        ) from None
    except OSError as error:
        raise Conflict(f"Cannot read {file}: {error.strerror}.") from None


def _first_letter(file: Path) -> str:
    return next((line.lstrip()[0] for line in read_lines(file) if line.strip()), "")


def _json_list(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads("".join(read_lines(file)))
    except json.JSONDecodeError as error:
        raise Corrupt(f"{file}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}).") from None
    yield from ((f"{file}, row {number}", row) for number, row in enumerate(rows))


def _json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            try:
                yield f"{file}, line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise Corrupt(f"{file}, line {number}, column {error.colno}: not valid JSON ({error.msg}).") from None


def read_rows(file: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a jsonl, json, parquet or arrow file, each with the place where it stands.

    A json file is a list of rows, or, like jsonl, one a line. Raises `Corrupt` for a file that is not what its ending says, `Conflict` for
    one that may not be read.
    """
    if file.suffix in (".jsonl", ".json"):
        yield from _json_list(file) if file.suffix == ".json" and _first_letter(file) == "[" else _json_lines(file)
        return
    try:
        for rows in _parquet(file) if file.suffix == ".parquet" else _arrow(file):
            yield from ((str(file), row) for row in rows)
    except pa.ArrowException as error:
        raise Corrupt(f"{file} is not a {file.suffix[1:]} file, or is torn: {error}") from None
    except OSError as error:
        raise Conflict(f"Cannot read {file}: {error.strerror or error}.") from None


def _parquet(file: Path) -> Iterator[list[Any]]:
    with pq.ParquetFile(file) as opened:
        yield from (batch.to_pylist() for batch in opened.iter_batches(batch_size=1024))


def _arrow(file: Path) -> Iterator[list[Any]]:
    """Rows of an arrow file in either form: the file format, or the stream format that `datasets` saves."""
    with pa.memory_map(str(file)) as opened:
        if opened.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(opened)
            yield from (reader.get_batch(number).to_pylist() for number in range(reader.num_record_batches))
        else:
            opened.seek(0)
            yield from (batch.to_pylist() for batch in pa.ipc.open_stream(opened))
