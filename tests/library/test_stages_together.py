"""Several dictionaries collected in one pass, in parts, with postings; and the commands that read these."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import copied, small
from safetensors.numpy import load_file

from saelab import stages
from saelab.activations.buffer import BufferConfig
from saelab.cli import COMMANDS, main
from saelab.features.collect import Part
from saelab.features.postings import Postings
from saelab.lab import Lab
from saelab.run import Run
from saelab.subject import Subject

RECIPE = small()
CONFIG = replace(RECIPE.collect, postings=1.0)
HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
NAMES = ("first", "second", "captured")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with two dictionaries that read the subject at different hooks, and one on captured activations; not to be changed."""
    run = Run(tmp_path_factory.mktemp("together") / "run")
    stages.read(run, RECIPE.read, RECIPE.texts)
    train = replace(RECIPE.train, stream=BufferConfig(rows=1024, shard_windows=64), train=replace(RECIPE.train.train, steps=5, sample=512))
    for hook, source in zip(HOOKS, NAMES, strict=False):
        stages.train(run, replace(train, hook=hook, source=source), RECIPE.sae)
    stages.capture(run, replace(RECIPE.capture, hooks=HOOKS[1:]))
    stages.train(run, replace(train, hook=HOOKS[1], source="captured", stream=None), RECIPE.sae)
    return run


@pytest.fixture(scope="module")
def alone(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same, each dictionary collected by itself."""
    run = copied(trained, tmp_path_factory.mktemp("alone") / "run")
    for name in NAMES:
        stages.collect(run, CONFIG, name)
    return run


def tables(run: Run, source: str) -> list[str]:
    """All that the feature store holds, but for sums, which depend on the order in the last bit."""
    with sqlite3.connect(run.source(source).path / "features.db") as connection:
        return [line for line in connection.iterdump() if not line.startswith(('INSERT INTO "details"', 'INSERT INTO "features"'))]


def test_dictionaries_collected_together_are_as_if_alone_and_share_the_forward_pass(trained, alone, tmp_path, monkeypatch):
    passes = []
    real = Subject.activations
    monkeypatch.setattr(Subject, "activations", lambda self, tokens, hooks: passes.append(len(hooks)) or real(self, tokens, hooks))
    run = copied(trained, tmp_path / "run")
    stages.collect(run, CONFIG, NAMES)
    assert set(passes) == {2}
    for name in NAMES:
        assert tables(run, name) == tables(alone, name)
        assert run.source(name).manifest("collect").facts["num_tokens"] == alone.source(name).manifest("collect").facts["num_tokens"]


def test_parts_of_a_pass_make_the_same_store(trained, alone, tmp_path):
    run = copied(trained, tmp_path / "run")
    for number in range(2):
        stages.collect(run, CONFIG, "captured", part=Part(number=number, of=2))
        assert run.source("captured").manifest("collect") is None
    stages.collect(run, CONFIG, "captured")
    assert tables(run, "captured") == tables(alone, "captured")
    assert not list(run.source("captured").path.glob("collect*.safetensors"))


def test_the_commands_find_what_fires(alone, tmp_path, capsys):
    lab = Lab(alone, "captured")
    found = Postings(lab.folder.path, lab.corpus)
    feature = int(np.bincount(found.document(0).feature).argmax())
    main(COMMANDS, ["firings", str(alone.path), "--source", "captured", "--feature", str(feature)])
    assert f"{len(found.feature(feature)):,} activations" in capsys.readouterr().out
    main(COMMANDS, ["firings", str(alone.path), "--source", "captured", "--document", "0", "--limit", "3"])
    assert lab.corpus.document(0).key in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(COMMANDS, ["firings", str(alone.path), "--source", "captured"])
    main(COMMANDS, ["vectors", str(alone.path), str(tmp_path / "documents.safetensors"), "--source", "captured", "--pooling", "mean"])
    written, vectors = load_file(Path(tmp_path / "documents.safetensors")), found.vectors("mean")
    np.testing.assert_array_equal(written["begin"], vectors.indptr)
    np.testing.assert_array_equal(written["value"], vectors.data)
