"""Conversations."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from saelab.errors import Invalid
from saelab.texts.base import Message
from saelab.texts.chats import Chats

TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def _template(messages: Sequence[Message]) -> str:
    return "".join(f"<{message['role']}>{message['content']}" for message in messages)


def _file(folder: Path, *lines: object) -> Path:
    file = folder / "talks.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def test_a_conversation_is_one_document_in_the_template_of_the_subject(tmp_path: Path):
    file = _file(tmp_path, TALK, {"messages": TALK[:1], "rating": 3})
    documents = list(Chats(paths=(file,)).documents(_template))
    assert [document.text for document in documents] == ["<user>hello<assistant>good day", "<user>hello"]
    assert [document.key for document in documents] == ["talks.jsonl/0", "talks.jsonl/1"]
    assert len(list(Chats(paths=(file,), max_documents=1).documents(_template))) == 1


def test_a_subject_without_a_chat_template_is_refused(tmp_path: Path):
    with pytest.raises(Invalid, match="need a subject with a chat template"):
        next(Chats(paths=(_file(tmp_path, TALK),)).documents())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"talk": TALK}, "line 1 has no column 'messages'. Columns there: talk"),
        ([], "expected a list of messages"),
        ([{"role": "user"}], "message 0 has no column 'content'"),
        ([{"role": "user", "content": 3}], "role and content must be text"),
    ],
)
def test_a_line_that_is_no_conversation_is_told_with_its_place(tmp_path: Path, line: object, message: str):
    with pytest.raises(Invalid, match=message):
        next(Chats(paths=(_file(tmp_path, line),)).documents(_template))
