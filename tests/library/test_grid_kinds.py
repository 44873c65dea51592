"""Sweeps of every kind of training: each member ends with the bits that it has alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import small

from saelab import stages
from saelab.activations.buffer import BufferConfig
from saelab.activations.vectors import VECTORS, Vectors
from saelab.cli import COMMANDS, main
from saelab.dictionary import WEIGHTS_FILE
from saelab.errors import Invalid
from saelab.feeds import TrainStage
from saelab.grid import SweepStage, members, sweep
from saelab.planted import Planted, World
from saelab.run import Run
from saelab.saes.crosscoder import Crosscoder
from saelab.saes.scar import Scar
from saelab.saes.topk import TopK
from saelab.saes.transcoder import Transcoder
from saelab.training import TrainConfig

POST, MID, OUT, FIRST = "blocks.1.hook_resid_post", "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", "blocks.0.hook_resid_post"
TRAIN = TrainConfig(steps=5, batch_size=64, sample=256, log_every=5, evaluate_every=0, lr=1e-3)
TOPK = TopK.Config(d_sae=32)
PLAIN = TrainStage(hook=POST, source="", train=TRAIN)
STREAM = BufferConfig(rows=512, shard_windows=32)
KINDS = {
    "transcoder": (replace(PLAIN, hook=MID, target_hook=OUT), [Transcoder.Config(d_sae=32, selection="topk")]),
    "crosscoder and pooled": (replace(PLAIN, beside=(FIRST,), pooled=True), [Crosscoder.Config(d_sae=32), TOPK]),
    "scar": (replace(PLAIN, concept=("law",)), [Scar.Config(d_sae=32), TOPK]),
    "stream": (replace(PLAIN, stream=STREAM, source="stream"), [TOPK]),
    "streamed crosscoder": (replace(PLAIN, stream=STREAM, beside=(FIRST,), source="streamed"), [Crosscoder.Config(d_sae=32)]),
    "vectors": (replace(PLAIN, hook=VECTORS, vectors=Vectors(file="vectors.npy")), [TOPK]),
}
"""What is swept -> its training, and its architectures."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run with four hooks, and a file of vectors beside it."""
    run, recipe = Run(tmp_path_factory.mktemp("kinds") / "run"), small()
    stages.read(run, recipe.read, recipe.texts)
    stages.capture(run, replace(recipe.capture, hooks=(POST, MID, OUT, FIRST)))
    np.save(run.path / "vectors.npy", World(Planted(d_in=16, num_features=32, l0=3)).batch(2000).x.numpy())
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_training_ends_in_a_sweep_as_it_does_alone(run: Run, kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(run.path)
    training, saes = KINDS[kind]
    config = SweepStage(trainings=(training,), grid={"k": (2, 4)})
    names = sweep(run, config, saes)
    assert len(set(names)) == 2 * len(saes)
    for stage, sae in members(config, saes)[1::2]:
        stages.train(run, replace(stage, source=f"{stage.source}-alone"), sae)
        swept, alone = (run.source(name).path for name in (stage.source, f"{stage.source}-alone"))
        assert (swept / WEIGHTS_FILE).read_bytes() == (alone / WEIGHTS_FILE).read_bytes()


def test_each_architecture_takes_of_a_training_what_it_is_made_for():
    training = replace(PLAIN, hook=MID, target_hook=OUT, beside=(FIRST,), concept=("law",))
    saes = [TOPK, Transcoder.Config(), Crosscoder.Config(), Scar.Config()]
    found = {job.source: job for job, _ in members(SweepStage(trainings=(training,)), saes)}
    assert {name: (job.target_hook, job.beside, job.concept) for name, job in found.items()} == {
        "1-res-mid-topk": (None, (), ()),
        "1-res-mid-transcoder": (OUT, (), ()),
        "1-res-mid-crosscoder": (None, (FIRST,), ()),
        "1-res-mid-scar": (None, (), ("law",)),
    }


@pytest.mark.parametrize(("name", "setting"), [("target_hook", OUT), ("beside", (FIRST,)), ("concept", ("law",))])
def test_what_no_architecture_takes_is_refused(run: Run, name: str, setting: object):
    with pytest.raises(Invalid, match=rf"No architecture of the sweep \(topk\) takes {name}\. Leave it out"):
        sweep(run, SweepStage(trainings=(replace(PLAIN, **{name: setting}),)), [TOPK])


def test_the_command_sweeps_transcoders_of_two_layers_each_with_its_target(run: Run, capsys: pytest.CaptureFixture[str]):
    few = ["--train.steps", "2", "--train.batch-size", "64", "--sae.d-sae", "32", "--k", "2"]
    hooks = ["--hook", "blocks.0.mlp.hook_in", "blocks.1.mlp.hook_in", "--target-hook", "blocks.0.hook_mlp_out", OUT]
    main(COMMANDS, ["sweep", str(run.path), "sae:transcoder", *hooks, *few])
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert names == ["0-mlp-in-transcoder-k2", "1-mlp-in-transcoder-k2"]
    assert [run.source(name).need("train").config["target_hook"] for name in names] == ["blocks.0.hook_mlp_out", OUT]


def test_the_command_sweeps_straight_from_the_model_and_over_vectors(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]):
    few = ["--k", "2", "3", "--train.steps", "2", "--train.batch-size", "64", "--sae.d-sae", "32"]
    main(COMMANDS, ["sweep", str(tmp_path / "vectors"), "--vectors", str(run.path / "vectors.npy"), *few])
    main(COMMANDS, ["sweep", str(run.path), "--hook", "blocks.0.hook_attn_out", "--stream", "--buffer.rows", "500", *few])
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert names == ["vectors-topk-k2", "vectors-topk-k3", "0-att-topk-k2", "0-att-topk-k3"]
    assert "blocks.0.hook_attn_out" not in run.need("capture").facts["hooks"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--hook", MID, POST, "--target-hook", OUT, "sae:transcoder"], "There are 2 hooks and 1 target hooks"),
        (["--hook", MID, "sae:transcoder"], "transcoder writes at another hook: give target_hook"),
        (["--hook", POST, "--beside", FIRST], "No architecture of the sweep"),
    ],
)
def test_the_command_refuses_before_anything_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str):
    with pytest.raises(SystemExit):
        main(COMMANDS, ["sweep", str(tmp_path / "new"), "--model", "toy", *flags])
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()
