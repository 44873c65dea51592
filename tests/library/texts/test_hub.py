"""Data sets read with the library `datasets`, offline."""

import json
from pathlib import Path

import pytest

from saelab.errors import Invalid, NotFound
from saelab.texts.hub import Hub

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that datasets imports


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "kind": ["a", "b"]})
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "many")
    rows.save_to_disk(tmp_path / "rows")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x.jsonl").write_text('{"text": "one", "kind": "a"}\n{"text": "two", "kind": "b"}\n')
    return tmp_path


@pytest.mark.parametrize("folder", ["many", "rows", "raw"])
def test_local_folders_of_all_forms_are_read(saved: Path, folder: str):
    documents = list(Hub(name=str(saved / folder), domain_field="kind").documents())
    assert [(document.key, document.domain, document.text) for document in documents] == [
        (f"{folder}/train/0", "a", "one"),
        (f"{folder}/train/1", "b", "two"),
    ]
    assert len(list(Hub(name=str(saved / folder), max_documents=1).documents())) == 1


def test_a_data_set_of_the_hub_offline_is_told_with_what_to_do_instead():
    with pytest.raises(NotFound, match=r"cannot be reached.*HF_HUB_OFFLINE.*bundled corpus"):
        next(Hub(name="roneneldan/TinyStories").documents())


def test_wrong_names_are_refused_with_what_there_is(saved: Path):
    with pytest.raises(Invalid, match=r"no split 'test'. Splits there: train"):
        next(Hub(name=str(saved / "many"), split="test").documents())
    with pytest.raises(Invalid, match="Available splits"):
        next(Hub(name=str(saved / "raw"), split="test").documents())
    with pytest.raises(Invalid, match=r"no column 'body'. Columns there: text, kind"):
        next(Hub(name=str(saved / "raw"), text_field="body").documents())
    with pytest.raises(NotFound, match="No data set"):
        next(Hub(name=str(saved / "absent")).documents())


def test_a_column_of_conversations_is_read_as_such(tmp_path: Path):
    talk = [{"role": "user", "content": "hello"}]
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    source = Hub(name=str(tmp_path), messages_field="messages")
    assert source.has_conversations
    assert [document.messages for document in source.documents()] == [talk]
    assert not Hub(name=str(tmp_path)).has_conversations
