"""Text that was made into token ids before."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelab.errors import Corrupt, Invalid
from saelab.texts import tokens as module
from saelab.texts.tokens import Tokens


def _read(*paths: Path, **fields: object) -> list[tuple[str, list[int]]]:
    return [(document.key, document.ids.tolist()) for document in Tokens(paths=paths, **fields).documents()]


def test_rows_of_every_kind_of_file_are_documents(tmp_path: Path):
    rows = [[1, 2, 3], [4, 5]]
    table = pa.table({"input_ids": rows})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"input_ids": row}) for row in rows))
    np.save(tmp_path / "d.npy", np.array([[1, 2], [3, 4]], dtype=np.int32))
    (tmp_path / "sae_lens.json").write_text("{}")
    found = _read(tmp_path)
    name = tmp_path.name
    assert found == [
        *((f"{name}/{file}/{number}", row) for file in ("a.parquet", "b.arrow", "c.jsonl") for number, row in enumerate(rows)),
        (f"{name}/d.npy/0", [1, 2]),
        (f"{name}/d.npy/1", [3, 4]),
    ]


def test_a_bare_array_is_divided_at_its_separator(tmp_path: Path):
    np.array([7, 8, 0, 0, 9, 60_000, 0, 5], dtype="<u2").tofile(tmp_path / "a.bin")
    assert _read(tmp_path / "a.bin", separator=0) == [("a.bin/0", [7, 8]), ("a.bin/1", [9, 60_000]), ("a.bin/2", [5])]
    assert len(_read(tmp_path / "a.bin", separator=0, max_documents=2)) == 2
    with pytest.raises(Invalid, match="one long row of ids"):
        _read(tmp_path / "a.bin")


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 7))
def test_documents_do_not_depend_on_the_block(ids: list[int], block: int):
    whole = [list(part) for part in module._divided(np.array(ids, dtype=np.int64), 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        assert [list(part) for part in module._divided(np.array(ids, dtype=np.int64), 0)] == whole
    assert [token for part in whole for token in part] == [token for token in ids if token]


def test_what_holds_no_ids_is_refused(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(Invalid, match="no column 'input_ids'. Columns there: text"):
        _read(tmp_path / "a.jsonl")
    with pytest.raises(Invalid, match="expected a list of token ids, found 'one'"):
        _read(tmp_path / "a.jsonl", ids_field="text")
    np.save(tmp_path / "b.npy", np.zeros((2, 3)))
    with pytest.raises(Invalid, match="float64 with 2 axes"):
        _read(tmp_path / "b.npy")
    (tmp_path / "c.npy").write_bytes(b"not numpy")
    with pytest.raises(Corrupt, match="c.npy is torn"):
        _read(tmp_path / "c.npy")


def test_the_tokenizer_is_the_one_named_or_noted(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"input_ids": [1]}\n')
    assert Tokens(paths=(tmp_path,)).made_with is None
    (tmp_path / "sae_lens.json").write_text('{"tokenizer_name": "org/gpt-x"}')
    assert Tokens(paths=(tmp_path / "a.jsonl",)).made_with == "org/gpt-x"
    assert Tokens(paths=(tmp_path,), tokenizer="mine").made_with == "mine"
