"""Conversations, one a document and a window, written as the subject's chat template writes them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from saelab.conversations import Message
from saelab.errors import Invalid
from saelab.texts.base import TEXTS, Document, TextSource
from saelab.texts.rows import ROWS, column, find_files, read_rows
from saelab.values import value


@TEXTS.register("chats")
@value
class Chats(TextSource):
    """Conversations from jsonl, json, parquet or arrow files: a row is `[{"role": ..., "content": ...}, ...]`, or holds such a list.

    They are never put together or cut into blocks, as what a chat model does with a turn rests on those before it (FAST, arXiv:2506.07691).
    """

    paths: tuple[Path, ...]
    """Files, patterns, or folders of files."""
    messages_field: str = "messages"
    """Where a row holds an object, the key of its list of messages."""
    max_documents: int | None = None
    """Conversations to stop after; all without it."""

    def documents(self) -> Iterator[Document]:
        """The conversations in the order of the files, each with its file's name as its domain.

        Raises `Invalid` for a row that is not a conversation, and what `Files` raises.
        """
        yield from islice(self._all(), self.max_documents)

    def _all(self) -> Iterator[Document]:
        for file, name in find_files(self.paths, ROWS):
            for number, (where, row) in enumerate(read_rows(file)):
                found = row if isinstance(row, list) else column(row, self.messages_field, where)
                yield Document(key=f"{name}/{number}", domain=file.stem, messages=messages_of(found, where))

    @property
    def has_conversations(self) -> bool:
        """They are."""
        return True


def messages_of(found: Any, where: str) -> list[Message]:  # noqa: ANN401 - whatever the file holds
    """A row's list of messages. Raises `Invalid` with the place for what is none."""
    if not isinstance(found, list) or not found:
        raise Invalid(f"{where}: expected a list of messages, found {found!r:.80}.")
    messages: list[Message] = []
    for number, item in enumerate(found):
        place = f"{where}, message {number}"
        role, content = column(item, "role", place), column(item, "content", place)
        if not isinstance(role, str) or not isinstance(content, str):
            raise Invalid(f"{place}: role and content must be text, found {item!r:.80}.")
        messages.append(Message(role=role, content=content))
    return messages
