"""The user's door: torchrun starts the command, one of its processes is killed, and the same command goes on."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from saelab import recipes, stages
from saelab.checkpoint import CHECKPOINT_FILE
from saelab.corpus import Corpus
from saelab.dictionary import WEIGHTS_FILE
from saelab.features.postings import Postings
from saelab.grid import SweepStage, sweep
from saelab.run import Run
from saelab.saes.topk import TopK
from saelab.training import TrainConfig

ROOT = Path(__file__).parents[3]
HOOK = recipes.toy().capture.hooks[0]
SOURCE = "collected"
CAPTURE = replace(recipes.toy().capture, shard_windows=32)
STEPS = 200
TRAIN = f"""--hook {HOOK} --train.steps {STEPS} --train.batch-size 64 --train.checkpoint-every 0 --train.evaluate-every 0
    sae:topk --sae.d-sae 64 --sae.k 4"""


@pytest.fixture
def run(tmp_path):
    recipe, made = recipes.toy(), Run(tmp_path / "run")
    stages.read(made, recipe.read, recipe.texts)
    return made


def start(command, *words):
    """torchrun with two processes, in a session of its own."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "saelab", command, *words]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'server'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(launch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def assert_a_kill_ends(job):
    """A killed rank ends the job within a minute, and the job says so."""
    began = time.monotonic()
    os.kill(children(job)[1], signal.SIGKILL)
    _, told = job.communicate(timeout=60)
    assert job.returncode != 0
    assert time.monotonic() - began < 60
    assert "SIGKILL" in told


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_job_and_the_same_command_goes_on(crew, run):
    job = start("train", str(run.path), "--source", "cut", *TRAIN.split())
    folder = run.source("cut").path
    while not (folder / CHECKPOINT_FILE).is_file():
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.02)
    assert_a_kill_ends(job)
    assert (folder / CHECKPOINT_FILE).is_file()
    for source in ("cut", "whole"):
        crew.run(train_stage, run.path, source)
    assert not (folder / CHECKPOINT_FILE).exists()
    one, two = (load_file(run.source(source).path / WEIGHTS_FILE) for source in ("cut", "whole"))
    assert all(one[name].equal(two[name]) for name in one)


def test_of_several_errors_one_is_said(crew):
    assert sorted(crew.run(says)) == [False, True]


def test_captured_files_and_trained_members_are_those_of_one_process(crew, run):
    alone = Run(run.path.with_name("alone"))
    shutil.copytree(run.path, alone.path)
    crew.run(capture_stage, run.path)
    capture_stage(None, alone.path)
    found, expected = ({path.name: path.read_bytes() for path in made.activations(HOOK).iterdir()} for made in (run, alone))
    assert found == expected
    names = crew.run(sweep_stage, run.path)
    assert names == [sweep_stage(None, alone.path)] * 2
    for name in names[0]:
        one, two = (load_file(made.source(name).path / WEIGHTS_FILE) for made in (alone, run))
        assert all(one[key].equal(two[key]) for key in one)


def test_features_collected_by_two_are_those_of_one_process(crew, run):
    stages.capture(run, CAPTURE)
    train_stage(None, run.path, SOURCE)
    alone = Run(run.path.with_name("alone"))
    shutil.copytree(run.path, alone.path)
    crew.run(collect_stage, run.path)
    collect_stage(None, alone.path)
    (two, two_sums), (one, one_sums) = (cells(made) for made in (run, alone))
    assert two == one
    assert two_sums == pytest.approx(one_sums, rel=1e-12), "parts are added up in another order"
    vectors = [Postings(made.source(SOURCE).path, Corpus.open(made.corpus)).vectors("max") for made in (run, alone)]
    assert (vectors[0] != vectors[1]).nnz == 0
    names = [sorted(item.name for item in made.source(SOURCE).path.iterdir()) for made in (run, alone)]
    assert names[0] == names[1]
    crew.run(collect_stage, run.path)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_collection_and_the_same_command_goes_on(crew, run):
    stages.capture(run, CAPTURE)
    train_stage(None, run.path, SOURCE)
    folder = run.source(SOURCE).path
    job = start("collect", str(run.path), "--checkpoint", "0", "--batch", "64")
    while not list(folder.glob("collect*.part.safetensors")):
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.01)
    assert_a_kill_ends(job)
    assert run.source(SOURCE).manifest("collect") is None
    kept = {file.name: file.stat().st_mtime_ns for file in folder.glob("collect*.part.safetensors")}
    assert kept
    crew.run(collect_stage, run.path)
    assert run.source(SOURCE).manifest("collect").facts["num_features"] == 64
    assert not list(folder.glob("collect*.part*"))


def says(job):
    return job.speaks_first()


def capture_stage(job, path):
    stages.capture(Run(path), recipes.toy().capture)


def collect_stage(job, path):
    stages.collect(Run(path), replace(recipes.toy().collect, postings=1.0, checkpoint=0.0))


SUMS = {("features", "mean"), ("details", "squares")}


def cells(run):
    """All that the store holds; and apart from it the columns that are sums of activations."""
    found, sums = {}, []
    with closing(sqlite3.connect(run.source(SOURCE).path / "features.db")) as connection:
        connection.row_factory = sqlite3.Row
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
            rows = [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]
            sums += [row.pop(column) for row in rows for column in list(row) if (table, column) in SUMS]
            found[table] = rows
    return found, sums


def train_stage(job, path, source):
    settings = TrainConfig(steps=STEPS, batch_size=64, checkpoint_every=0.0, evaluate_every=0)
    stages.train(Run(path), stages.TrainStage(hook=HOOK, source=source, train=settings), TopK.Config(d_sae=64, k=4))


def sweep_stage(job, path):
    few = TrainConfig(steps=4, batch_size=64, evaluate_every=0)
    training = stages.TrainStage(hook=HOOK, source="", train=few)
    return sweep(Run(path), SweepStage(trainings=(training,), grid={"k": (2, 4, 8)}), [TopK.Config(d_sae=64)])
