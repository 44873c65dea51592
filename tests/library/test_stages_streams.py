"""Stages without captured activations: straight from the subject, and on vectors from a file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import SOURCE, copied, names, small

from saelab import recipes, stages
from saelab.activations.buffer import BufferConfig, RingBuffer
from saelab.activations.disk import DiskStore
from saelab.activations.stream import SubjectStore
from saelab.activations.vectors import Vectors, VectorStore
from saelab.cli import COMMANDS, main
from saelab.describe import describe_source
from saelab.errors import Invalid
from saelab.features.store import FeatureStore
from saelab.figures import quality as quality_figure
from saelab.lab import Lab
from saelab.planted import Planted, World
from saelab.records import Quality
from saelab.run import Run, read_saved
from saelab.training import Trainer

RECIPE = small()
BUFFER = BufferConfig(rows=1024, shard_windows=32)
STREAM = replace(RECIPE.train, stream=BUFFER, train=replace(RECIPE.train.train, sample=1024))


class Killed(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was trained straight from the subject; not to be changed."""
    run = Run(tmp_path_factory.mktemp("streamed") / "run")
    stages.read(run, RECIPE.read, RECIPE.texts)
    stages.train(run, STREAM, RECIPE.sae)
    stages.evaluate(run, RECIPE.evaluate)
    stages.collect(run, RECIPE.collect)
    return run


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was trained on the vectors of a file; not to be changed."""
    folder = tmp_path_factory.mktemp("vectors")
    np.save(folder / "embeddings.npy", World(Planted(d_in=16, num_features=32, l0=3)).batch(3000).x.numpy())
    run = Run(folder / "run")
    train = replace(RECIPE.train.train, lr=1e-2)
    config = replace(RECIPE.train, hook="vectors", source="vectors-topk", train=train, vectors=Vectors(file=str(folder / "embeddings.npy")))
    stages.train(run, config, replace(RECIPE.sae, d_sae=32, k=3))
    stages.evaluate(run, RECIPE.evaluate)
    return run


def test_a_streamed_run_is_evaluated_and_collected_without_activations_on_disk(streamed: Run):
    assert not (streamed.path / "activations").exists()
    assert streamed.manifest("capture") is None
    assert isinstance(Lab(streamed).store, SubjectStore)
    found = read_saved(Quality, streamed.source(SOURCE).path / "quality.json")
    assert found.fvu.value < found.controls["random"]
    assert found.ce_increase is not None
    assert FeatureStore(streamed.source(SOURCE).path / "features.db").d_sae == 96


def test_it_sees_the_same_activations_as_a_captured_one(streamed: Run, tmp_path: Path):
    run = copied(streamed, tmp_path / "run")
    stages.capture(run, replace(RECIPE.capture, shard_windows=32))
    captured, stream = DiskStore(run.activations(RECIPE.train.hook)), Lab(run).store
    assert captured.max_norm == stream.max_norm
    for one, other in zip(captured.chunks(), stream.chunks(), strict=True):
        assert np.array_equal(one.x.float().numpy(), other.x.float().numpy())
        assert one.position.tolist() == other.position.tolist()


def test_a_streamed_training_that_was_killed_ends_with_the_same_bits(streamed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run(tmp_path / "run")
    stages.read(run, RECIPE.read, RECIPE.texts)
    real = Trainer.step

    def step(self: Trainer, x):
        if self.steps_done == 41:
            raise Killed
        return real(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(Killed):
            stages.train(run, STREAM, RECIPE.sae)
    fills = []
    monkeypatch.setattr(RingBuffer, "_fill", lambda self: fills.append(self))
    stages.train(run, STREAM, RECIPE.sae)
    assert not fills, "a resumed training does not fill its buffer anew"
    weights = f"dictionaries/{SOURCE}/sae_weights.safetensors"
    assert (run.path / weights).read_bytes() == (streamed.path / weights).read_bytes()


def test_a_dictionary_of_vectors_is_evaluated_without_losses(vectors: Run):
    assert not (vectors.path / "corpus").exists()
    assert isinstance(Lab(vectors).store, VectorStore)
    found = read_saved(Quality, vectors.source("vectors-topk").path / "quality.json")
    assert found.fvu.value < found.controls["random"]
    assert found.fvu.low < found.fvu.value < found.fvu.high
    assert found.l0.value <= 3
    assert (found.ce_clean, found.ce_increase, found.ce_recovered, found.kl, found.control_ce_increase) == (None, None, None, None, {})
    assert len(quality_figure(found).data) == 1
    source = describe_source(vectors, "vectors-topk")
    assert (source.model, source.hook, source.d_in) == ("embeddings", "vectors", 16)


def test_what_needs_text_says_so(vectors: Run):
    before = names(vectors.path)
    with pytest.raises(Invalid, match="embeddings.npy, which come from no text: it has no subject, and so neither examples"):
        stages.collect(vectors, RECIPE.collect)
    with pytest.raises(Invalid, match="come from no text"):
        _ = Lab(vectors).subject
    assert names(vectors.path) == before


def test_vectors_have_no_hook_and_no_stream(tmp_path: Path):
    file = Vectors(file=str(tmp_path / "x.npy"))
    for wrong in ({"vectors": file}, {"vectors": file, "hook": "vectors", "stream": BUFFER}):
        with pytest.raises(Invalid, match="give the hook as 'vectors', no other hook, no concept, and do not stream"):
            stages.train(Run(tmp_path), replace(RECIPE.train, **wrong), RECIPE.sae)


def test_both_are_trained_from_the_command_line(vectors: Run, streamed: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    few = ["--train.steps", "5", "--train.batch-size", "64", "sae:topk", "--sae.d-sae", "40", "--sae.k", "3"]
    file = str(vectors.path.parent / "embeddings.npy")
    main(COMMANDS, ["train", str(tmp_path / "vectors"), "--vectors", file, *few])
    main(COMMANDS, ["evaluate", str(tmp_path / "vectors")])
    assert "fvu" in (said := capsys.readouterr().out)
    assert "ce_increase" not in said
    run = copied(streamed, tmp_path / "run")
    hook = recipes.toy().train.hook
    main(COMMANDS, ["train", str(run.path), "--hook", hook, "--source", "again", "--stream", "--buffer.rows", "500", *few])
    assert run.source("again").need("train").config["stream"]["rows"] == 500
    assert run.manifest("capture") is None
