"""Trainings that one process and many can do, for comparison; called in the processes of a `crew`."""

from pathlib import Path

import torch

from saelab.describe import read_log
from saelab.dictionary import DICTIONARIES
from saelab.distributed.group import Group
from saelab.distributed.ranks import ALONE
from saelab.errors import Invalid
from saelab.sweep import Member, fit
from saelab.testing import D_IN, L0, planted, training_rows
from saelab.training import TrainConfig, Trainer

STEPS, SIZE, D_SAE = 24, 64, 128
CPU = torch.device("cpu")


class Batches:
    """Planted rows for a dictionary of a width, from any step on; stops where it is told to."""

    def __init__(self, dictionary, stop=None):
        self.rows, self.stop = training_rows(dictionary, planted(STEPS * SIZE, seed=1)[0]).split(SIZE), stop

    def __call__(self, step):
        return iter(self.rows[step : self.stop])


def config(**changes):
    few: dict = {"steps": STEPS, "batch_size": SIZE, "sample": 256, "log_every": 5, "checkpoint_every": 1e9, "dead_after": 64, "lr": 1e-2}
    return TrainConfig(**few | changes)


def made(name):
    kind = DICTIONARIES[name]
    return lambda: kind(D_IN, kind.sized(D_IN, D_SAE, L0).config)


def member(job, shards, make, folder, batches=Batches, **changes):
    """A training by one process (no job), or by all of a job."""
    ranks = Group(job, shards, CPU) if job else ALONE
    dictionary = ranks.hold(make, CPU)
    all_rows = batches(make())
    return Member(Trainer(dictionary, config(**changes), folder, ranks=ranks), ranks.part(all_rows))


def train(job, shards, name, folder, dead=(), dead_after=64, every=1e9):
    """Trains to the end, and gives the log. `dead`: features that are dead from the beginning."""
    training = member(job, shards, made(name), Path(folder), dead_after=dead_after, checkpoint_every=every)
    for feature in dead:
        held = feature - training.trainer.ranks.first
        if 0 <= held < len(training.trainer.idle):
            training.trainer.idle[held] = 10**9
    fit([training])
    return log_of(folder)


def train_until(job, shards, name, folder, stop):
    """Trains until the batches end at a step, from which there is a checkpoint; gives the error."""
    try:
        fit([member(job, shards, made(name), Path(folder), lambda dictionary: Batches(dictionary, stop), checkpoint_every=0.0)])
    except Invalid as error:
        return str(error)


def log_of(folder):
    """Steps, tokens and metrics of a log, but for the speed."""
    kept = [{name: row.metrics[name] for name in sorted(row.metrics) if name != "tokens_per_second"} for row in read_log(Path(folder))]
    return [(row.step, row.tokens, metrics) for row, metrics in zip(read_log(Path(folder)), kept, strict=True)]
