"""Text files, jsonl, parquet and arrow files of your own."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saelab.errors import Conflict, Corrupt, Invalid, NotFound
from saelab.texts.base import PIECE, TEXTS, ChatTemplate, Document, TextSource, pieces
from saelab.values import value

_TEXT = (".txt", ".md")
_KNOWN = (*_TEXT, ".jsonl", ".parquet", ".arrow")


@TEXTS.register("files")
@value
class Files(TextSource):
    """Documents from files: txt and md (cut at blank lines), jsonl, parquet and arrow (a document a row)."""

    paths: tuple[Path, ...]
    """Files, or folders in which every file of these kinds is read, in the order of their names."""
    text_field: str = "text"
    """Column of jsonl, parquet and arrow files that holds the text."""
    domain_field: str | None = None
    """Column that holds the kind of text; without one, a file's name without its ending is its documents' domain."""
    piece: int = PIECE
    """Characters of the documents that txt and md files are cut into, about."""
    max_documents: int | None = None
    """Documents to stop after; all without it."""

    def documents(self, template: ChatTemplate | None = None) -> Iterator[Document]:
        """The documents, file by file. Keys are the file's place in what was given and the document's number in it.

        Raises `NotFound` for a path that does not exist, `Invalid` for a kind of file or a column that is not known, `Conflict` for a
        file that may not be read, `Corrupt` for one that is not what its ending says, with the place.
        """
        yield from islice(self._all(), self.max_documents)

    def _all(self) -> Iterator[Document]:
        for file, name in find_files(self.paths, _KNOWN):
            if file.suffix in _TEXT:
                rows: Iterator[tuple[str, str]] = ((text, file.stem) for text in pieces(_paragraphs(file), self.piece))
            else:
                rows = (self._row(row, where, file) for where, row in _rows(file))
            for number, (text, domain) in enumerate(rows):
                yield Document(key=f"{name}/{number}", domain=domain, text=text)

    def _row(self, row: Any, where: str, file: Path) -> tuple[str, str]:  # noqa: ANN401 - whatever the file holds
        text = column(row, self.text_field, where)
        if not isinstance(text, str):
            raise Invalid(f"{where}: the column {self.text_field!r} holds {type(text).__name__}, not text. Name another with text_field.")
        return text, str(column(row, self.domain_field, where)) if self.domain_field else file.stem


def find_files(paths: tuple[Path, ...], endings: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """The files among the paths and in the folders among them, each with its name: its place below the folder of the path given.

    Raises `NotFound` for a path that does not exist or a folder without such files, `Invalid` for a file of another kind, for no paths and
    for two paths that end in the same name.
    """
    names = [path.resolve().name for path in paths]
    if not paths:
        raise Invalid("No files were given. Give files or folders with paths.")
    if len(set(names)) < len(names):
        raise Invalid(f"Two of the paths end in the same name: {', '.join(sorted(names))}. Rename one, or give the folder that holds both.")
    for path in paths:
        if not path.exists():
            raise NotFound(f"There is no file or folder {path}.")
        if path.is_file() and path.suffix not in endings:
            raise Invalid(f"{path} is not a kind of file that can be read here. Known endings: {', '.join(endings)}.")
        found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in endings and file.is_file())
        if not found:
            raise NotFound(f"The folder {path} holds no file that ends in {', '.join(endings)}.")
        yield from ((file, file.resolve().relative_to(path.resolve().parent).as_posix()) for file in found)


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


def read_json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Where each line of a jsonl file stands and what it holds; empty lines are passed over. Raises `Corrupt` with the line's number."""
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            try:
                yield f"{file}, line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise Corrupt(f"{file}, line {number}, column {error.colno}: not valid JSON ({error.msg}).") from None


def _paragraphs(file: Path) -> Iterator[str]:
    lines: list[str] = []
    for line in read_lines(file):
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            yield "\n".join(lines)
            lines = []
    yield "\n".join(lines)


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".jsonl":
        yield from read_json_lines(file)
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
