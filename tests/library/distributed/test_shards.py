"""Checkpoints and dictionaries of divided features."""

import pytest
import torch
from safetensors.torch import load_file
from together import log_of, train, train_until

from saelab.checkpoint import CHECKPOINT_FILE, POINTER_FILE, SHARDS_FOLDER
from saelab.dictionary import WEIGHTS_FILE
from saelab.errors import Conflict, Corrupt


def weights(folder):
    return load_file(folder / WEIGHTS_FILE)


def assert_same(one, two, tolerance=0.0):
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(two[name], tensor, rtol=0, atol=tolerance), name


@pytest.mark.parametrize("shards", [1, 2])
def test_an_interrupted_training_goes_on_to_the_same_bits(crew, tmp_path, shards):
    crew.run(train, shards, "batchtopk", str(tmp_path / "whole"))
    errors = crew.run(train_until, shards, "batchtopk", str(tmp_path / "cut"), 21)
    assert all(error.startswith("The batches ended at step 21") for error in errors)
    assert (tmp_path / "cut" / (POINTER_FILE if shards > 1 else CHECKPOINT_FILE)).is_file()
    crew.run(train, shards, "batchtopk", str(tmp_path / "cut"), (), 64, 0.0)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert [row[:2] for row in log_of(tmp_path / "cut")] == [row[:2] for row in log_of(tmp_path / "whole")]
    assert not [name for name in (POINTER_FILE, CHECKPOINT_FILE, SHARDS_FOLDER) if (tmp_path / "cut" / name).exists()]


@pytest.mark.parametrize(("first", "then"), [("two", "one"), ("one", "two")])
def test_a_checkpoint_is_read_by_another_number_of_processes(crew, tmp_path, first, then):
    train(None, 1, "jumprelu", tmp_path / "whole")
    by = {"one": lambda task, *args: task(None, 1, *args), "two": lambda task, *args: crew.run(task, 2, *args)}
    by[first](train_until, "jumprelu", str(tmp_path / "cut"), 21)
    by[then](train, "jumprelu", str(tmp_path / "cut"), (), 64, 0.0)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"), 1e-5)


def test_shards_of_another_config_and_torn_ones_are_refused(crew, tmp_path):
    crew.run(train_until, 2, "topk", str(tmp_path), 12)
    with pytest.raises(Conflict, match=r"checkpoint\.json was made with another config"):
        train(None, 1, "topk", tmp_path, dead_after=7, every=0.0)
    for shard in (tmp_path / SHARDS_FOLDER).rglob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(Corrupt, match=r"checkpoint\.json: not a checkpoint"):
        train(None, 1, "topk", tmp_path, every=0.0)
    shard.unlink()
    with pytest.raises(Corrupt, match="has 1 files, where 2 were written"):
        train(None, 1, "topk", tmp_path, every=0.0)
