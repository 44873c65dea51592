"""Conversations."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saelab.errors import Invalid
from saelab.texts.chats import Chats

TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def _file(folder: Path, *lines: object) -> Path:
    file = folder / "talks.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def test_a_conversation_is_one_document(tmp_path: Path):
    source = Chats(paths=(_file(tmp_path, TALK, {"messages": TALK[:1], "rating": 3}),))
    documents = list(source.documents())
    assert [document.messages for document in documents] == [TALK, TALK[:1]]
    assert [(document.key, document.domain) for document in documents] == [("talks.jsonl/0", "talks"), ("talks.jsonl/1", "talks")]
    assert source.has_conversations
    assert len(list(Chats(paths=source.paths, max_documents=1).documents())) == 1


def test_conversations_in_parquet_are_read(tmp_path: Path):
    pq.write_table(pa.table({"conversation": [TALK, TALK[:1]]}), tmp_path / "t.parquet")
    documents = list(Chats(paths=(tmp_path,), messages_field="conversation").documents())
    assert [document.messages for document in documents] == [TALK, TALK[:1]]


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
        next(Chats(paths=(_file(tmp_path, line),)).documents())
