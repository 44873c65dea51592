"""Documents from files."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saelab.errors import Conflict, Corrupt, Invalid, NotFound
from saelab.texts.files import Files
from saelab.values import from_json, to_json


def _read(*paths: Path, **fields: object) -> list[tuple[str, str, str]]:
    return [(document.key, document.domain, document.text) for document in Files(paths=paths, **fields).documents()]


def _table() -> pa.Table:
    return pa.table({"text": ["one", "two"], "kind": ["a", "b"], "size": [1, 2]})


def _arrow_file(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, _table().schema) as writer:
        writer.write_table(_table())


def _arrow_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, _table().schema) as writer:
        writer.write_table(_table())


def test_a_txt_file_is_cut_at_blank_lines(tmp_path: Path):
    file = tmp_path / "book.txt"
    file.write_text("\ufefffirst line\nsecond\n\n\nnext part\n")
    assert _read(file, piece=10) == [("book.txt/0", "book", "first line\nsecond"), ("book.txt/1", "book", "next part")]


def test_a_jsonl_file_gives_a_document_a_line(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "one", "kind": "a"}\n\n{"text": "two", "kind": "b"}\n')
    assert _read(file, domain_field="kind") == [("rows.jsonl/0", "a", "one"), ("rows.jsonl/1", "b", "two")]


@pytest.mark.parametrize(
    ("name", "write"),
    [("t.parquet", lambda path: pq.write_table(_table(), path)), ("t.arrow", _arrow_file), ("u.arrow", _arrow_stream)],
)
def test_parquet_and_both_forms_of_arrow_are_read(tmp_path: Path, name: str, write):
    write(tmp_path / name)
    assert _read(tmp_path / name, domain_field="kind") == [(f"{name}/0", "a", "one"), (f"{name}/1", "b", "two")]
    with pytest.raises(Invalid, match=r"no column 'body'. Columns there: text, kind, size"):
        _read(tmp_path / name, text_field="body")
    with pytest.raises(Invalid, match="'size' holds int, not text"):
        _read(tmp_path / name, text_field="size")


def test_a_folder_is_read_whole_in_the_order_of_names_and_up_to_the_cap(tmp_path: Path):
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "sub/c.md", "ignored.csv"):
        (folder / name).write_text(name)
    assert [key for key, _, _ in _read(folder)] == ["texts/a.txt/0", "texts/b.txt/0", "texts/sub/c.md/0"]
    assert len(_read(folder, max_documents=2)) == 2


def test_keys_do_not_depend_on_where_the_folder_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert _read(Path("a.txt")) == _read(tmp_path / "a.txt")
    assert _read(Path()) == _read(tmp_path)


def test_wrong_encoding_is_told_with_the_byte_it_stands_at(tmp_path: Path):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"plain line\ncaf\xe9\n")
    with pytest.raises(Corrupt, match=r"latin.txt is not UTF-8 text: byte 0xe9 at offset 14"):
        _read(file)


def test_malformed_json_is_told_with_its_line(tmp_path: Path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "one"}\n{"text": \n')
    with pytest.raises(Corrupt, match=r"bad.jsonl, line 2, column"):
        _read(file)
    file.write_text('"just text"\n')
    with pytest.raises(Invalid, match="line 1 holds str"):
        _read(file)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_torn_file_is_named(tmp_path: Path, ending: str):
    file = tmp_path / f"torn.{ending}"
    file.write_bytes(b"not at all what it says")
    with pytest.raises(Corrupt, match=f"torn.{ending} is not a {ending} file"):
        _read(file)


def test_paths_that_cannot_be_are_refused(tmp_path: Path):
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x.txt").write_text("x")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(NotFound, match="no file or folder"):
        _read(tmp_path / "absent.txt")
    with pytest.raises(Invalid, match=r"Known endings: \.txt"):
        _read(tmp_path / "table.csv")
    with pytest.raises(Invalid, match="end in the same name"):
        _read(tmp_path / "x.txt", tmp_path / "one" / "x.txt")
    with pytest.raises(Invalid, match="No files were given"):
        _read()
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="holds no file that ends in"):
        _read(tmp_path / "empty")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "secret.txt"
    file.write_text("x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(Conflict, match=r"Cannot read .*secret.txt: Permission denied"):
        _read(file)


def test_the_source_is_a_value(tmp_path: Path):
    source = Files(paths=(tmp_path,), max_documents=3)
    assert from_json(Files, to_json(source)) == source
    assert json.loads(to_json(source))["paths"] == [str(tmp_path)]


def test_json_is_read_as_a_list_and_line_by_line(tmp_path: Path):
    rows = [{"text": "one"}, {"text": "two"}]
    (tmp_path / "list.json").write_text("\n " + json.dumps(rows, indent=1))
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, rows)))
    for name in ("list.json", "lines.json"):
        assert _read(tmp_path / name) == [(f"{name}/0", name[:-5], "one"), (f"{name}/1", name[:-5], "two")]
    (tmp_path / "list.json").write_text('[\n{"text": }]')
    with pytest.raises(Corrupt, match=r"list.json, line 2, column 10: not valid JSON"):
        _read(tmp_path / "list.json")
    (tmp_path / "list.json").write_text('["bare"]')
    with pytest.raises(Invalid, match="list.json, row 0 holds str"):
        _read(tmp_path / "list.json")


def test_patterns_stand_for_the_files_that_match(tmp_path: Path):
    for name in ("a/x.txt", "a/y.md", "b/x.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    root = tmp_path.name
    assert [key for key, _, _ in _read(tmp_path / "**" / "x.txt")] == [f"{root}/a/x.txt/0", f"{root}/b/x.txt/0"]
    assert [key for key, _, _ in _read(tmp_path / "a" / "*")] == ["a/x.txt/0", "a/y.md/0"]
    assert [key for key, _, _ in _read(tmp_path / "?.txt")] == [f"{root}/c.txt/0"]
    with pytest.raises(NotFound, match=r"\*\.jsonl holds no file"):
        _read(tmp_path / "*.jsonl")
    with pytest.raises(NotFound, match="no file or folder"):
        _read(tmp_path / "none" / "*.txt")
