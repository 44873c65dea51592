"""The log of a training, also in TensorBoard, W&B and trackio: these are stood in for, and TensorBoard is real where it is installed."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from saelab.describe import read_log
from saelab.errors import Invalid
from saelab.records import LogRow
from saelab.saes.topk import TopK
from saelab.sinks import SINKS, open_sinks
from saelab.sweep import Member, fit
from saelab.testing import D_IN, L0, NUM_FEATURES, planted
from saelab.training import TrainConfig, Trainer

PACKAGES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}


class Said:
    """A package that stands for all three: it writes down what it is told."""

    def __init__(self):
        self.opened, self.rows, self.closed = [], [], 0

    def init(self, **settings):
        self.opened.append(settings)
        return SimpleNamespace(log=lambda metrics, step: self.rows.append((step, metrics)), finish=self.finish)

    def writer(self, folder, purge_step):
        self.opened.append({"folder": folder, "purge_step": purge_step})
        return SimpleNamespace(add_scalar=lambda name, number, step: self.rows.append((step, {name: number})), close=self.finish)

    def finish(self):
        self.closed += 1


@pytest.fixture
def packages(monkeypatch):
    """The three packages, stood in for."""
    said = {name: Said() for name in PACKAGES}
    for name, package in PACKAGES.items():
        module = ModuleType(package)
        module.init, module.SummaryWriter = said[name].init, said[name].writer
        monkeypatch.setitem(sys.modules, package, module)
    return said


def rows(start):
    return iter(planted(10 * 32, seed=1)[0].split(32)[start:])


def trainer(folder, **changes):
    config = TrainConfig(steps=10, batch_size=32, sample=64, log_every=4, checkpoint_every=0.0, lr=1e-2, **changes)
    return Trainer(TopK.sized(D_IN, NUM_FEATURES, L0), config, folder)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_sink_gets_every_row_of_the_log_and_is_closed(packages, tmp_path, name):
    trainer(tmp_path / "run", sinks=(name,)).fit(rows)
    said, logged = packages[name], read_log(tmp_path / "run")
    assert (len(said.opened), said.closed) == (1, 1)
    for row in logged:
        told = {key: number for step, metrics in said.rows if step == row.step for key, number in metrics.items()}
        assert told == row.metrics
    assert {step for step, _ in said.rows} == {4, 8, 10}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_training_that_goes_on_goes_on_in_the_same_place(packages, tmp_path, name):
    killed = trainer(tmp_path, sinks=(name,))
    with pytest.raises(Invalid, match="ended at step 6"):
        killed.fit(lambda start: iter(list(rows(0))[start:6]))
    trainer(tmp_path, sinks=(name,)).fit(rows)
    first, second = packages[name].opened
    assert packages[name].closed == 2
    if name == "tensorboard":
        assert (first["purge_step"], second["purge_step"]) == (1, 7)
    elif name == "wandb":
        assert first["id"] == second["id"]
        assert first["resume"] == second["resume"] == "allow"
    else:
        assert first["name"] == second["name"]
        assert (first["resume"], second["resume"]) == ("never", "allow")


def test_a_training_begun_anew_is_a_new_run(packages, tmp_path):
    for _ in range(2):
        trainer(tmp_path, sinks=("wandb",)).fit(rows)
    first, second = packages["wandb"].opened
    assert first["id"] != second["id"]


def test_the_config_goes_along(packages, tmp_path):
    trainer(tmp_path, sinks=("wandb", "trackio")).fit(rows)
    for name in ("wandb", "trackio"):
        (opened,) = packages[name].opened
        assert opened["config"]["train"]["lr"] == 1e-2
        assert opened["config"]["topk"]["k"] == L0


def test_members_of_a_sweep_have_a_run_each(packages, tmp_path):
    fit([Member(trainer(tmp_path / name, sinks=("wandb",)), rows) for name in ("a", "b")])
    assert [opened["name"] for opened in packages["wandb"].opened] == ["a", "b"]
    assert all(opened["reinit"] == "create_new" for opened in packages["wandb"].opened)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_missing_is_told_before_training_begins(monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    begun = trainer(tmp_path / "run", sinks=(name,))
    with pytest.raises(Invalid, match=rf"needs the package {name}, which is not installed. Run: pip install 'saelab\[{name}\]'"):
        begun.fit(rows)
    assert begun.steps_done == 0
    assert not (tmp_path / "run").exists()


def test_a_sink_without_a_folder_is_refused():
    with pytest.raises(Invalid, match="sinks are wandb, but the trainer has no folder"):
        trainer(None, sinks=("wandb",))


def test_every_name_has_its_sink():
    assert SINKS.keys() == PACKAGES.keys()


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps_done, steps in ((0, (4, 8, 12)), (8, (12, 16))):  # the second goes on from step 8
        _, sink = open_sinks(("tensorboard",), tmp_path, {}, steps_done)
        for step in steps:
            sink.write(LogRow(step=step, tokens=step, seconds=1.0, metrics={"eval/fvu": 1 / step + steps_done}))
        sink.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, round(event.value, 4)) for event in found.Scalars("eval/fvu")] == [
        (4, 0.25),
        (8, 0.125),
        (12, 8.0833),
        (16, 8.0625),
    ]
