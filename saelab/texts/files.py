"""Text files, json, parquet and arrow files of your own."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from saelab.errors import Invalid
from saelab.texts.base import PIECE, TEXTS, Document, TextSource, pieces
from saelab.texts.rows import ROWS, column, find_files, read_lines, read_rows
from saelab.values import value

_TEXT = (".txt", ".md")


@TEXTS.register("files")
@value
class Files(TextSource):
    """Documents from files: txt and md (cut at blank lines), jsonl, json, parquet and arrow (a document a row)."""

    paths: tuple[Path, ...]
    """Files, patterns such as `texts/**/*.md`, or folders in which every file of these kinds is read, in the order of their names."""
    text_field: str = "text"
    """Column of jsonl, json, parquet and arrow files that holds the text."""
    domain_field: str | None = None
    """Column that holds the kind of text; without one, a file's name without its ending is its documents' domain."""
    piece: int = PIECE
    """Characters of the documents that txt and md files are cut into, about."""
    max_documents: int | None = None
    """Documents to stop after; all without it."""

    def documents(self) -> Iterator[Document]:
        """The documents, file by file. Keys are the file's place in what was given and the document's number in it.

        Raises `NotFound` for a path that does not exist, `Invalid` for a kind of file or a column that is not known, `Conflict` for a
        file that may not be read, `Corrupt` for one that is not what its ending says, with the place.
        """
        yield from islice(self._all(), self.max_documents)

    def _all(self) -> Iterator[Document]:
        for file, name in find_files(self.paths, (*_TEXT, *ROWS)):
            if file.suffix in _TEXT:
                rows: Iterator[tuple[str, str]] = ((text, file.stem) for text in pieces(_paragraphs(file), self.piece))
            else:
                rows = (self._row(row, where, file) for where, row in read_rows(file))
            for number, (text, domain) in enumerate(rows):
                yield Document(key=f"{name}/{number}", domain=domain, text=text)

    def _row(self, row: Any, where: str, file: Path) -> tuple[str, str]:  # noqa: ANN401 - whatever the file holds
        text = column(row, self.text_field, where)
        if not isinstance(text, str):
            raise Invalid(f"{where}: the column {self.text_field!r} holds {type(text).__name__}, not text. Name another with text_field.")
        return text, str(column(row, self.domain_field, where)) if self.domain_field else file.stem


def _paragraphs(file: Path) -> Iterator[str]:
    lines: list[str] = []
    for line in read_lines(file):
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            yield "\n".join(lines)
            lines = []
    yield "\n".join(lines)
