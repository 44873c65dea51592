"""Conversations, one a document, written as the subject's chat template writes them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from saelab.errors import Invalid
from saelab.texts.base import TEXTS, ChatTemplate, Document, Message, TextSource
from saelab.texts.files import column, find_files, read_json_lines
from saelab.values import value


@TEXTS.register("chats")
@value
class Chats(TextSource):
    """Conversations from jsonl files: a line holds `[{"role": ..., "content": ...}, ...]`, or an object with such a list."""

    paths: tuple[Path, ...]
    """jsonl files, or folders of them."""
    messages_field: str = "messages"
    """Where a line holds an object, the key of its list of messages."""
    max_documents: int | None = None
    """Conversations to stop after; all without it."""

    def documents(self, template: ChatTemplate | None = None) -> Iterator[Document]:
        """The conversations in the order of the files, whole, each with its file's name as its domain.

        Raises `Invalid` for a subject without a chat template and for a line that is not a conversation, and what `Files` raises.
        """
        if template is None:
            raise Invalid("Conversations need a subject with a chat template, and this one has none. Give its texts with another source.")
        for file, name, number, where, line in islice(self._lines(), self.max_documents):
            text = template(_messages(line, self.messages_field, where))
            yield Document(key=f"{name}/{number}", domain=file.stem, text=text)

    def _lines(self) -> Iterator[tuple[Path, str, int, str, Any]]:
        for file, name in find_files(self.paths, (".jsonl",)):
            for number, (where, line) in enumerate(read_json_lines(file)):
                yield file, name, number, where, line


def _messages(line: Any, field: str, where: str) -> list[Message]:  # noqa: ANN401 - whatever the file holds
    found = line if isinstance(line, list) else column(line, field, where)
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
