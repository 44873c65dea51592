"""Trainings that one process and many can do, for comparison; called in the processes of a `crew`."""

from pathlib import Path

import torch

from saelab.describe import read_log
from saelab.dictionary import DICTIONARIES
from saelab.distributed.group import Group
from saelab.distributed.ranks import ALONE
from saelab.sweep import Member, fit
from saelab.testing import D_IN, L0, planted, training_rows
from saelab.training import TrainConfig, Trainer

STEPS, SIZE, D_SAE = 36, 64, 128
CPU = torch.device("cpu")


class Batches:
    """Planted rows for a dictionary of a width, from any step on; stops where it is told to."""

    def __init__(self, dictionary, stop=None):
        self.rows, self.stop = training_rows(dictionary, planted(STEPS * SIZE, seed=1)[0]).split(SIZE), stop

    def __call__(self, step):
        return iter(self.rows[step : self.stop])


def config(**changes):
    few = {"steps": STEPS, "batch_size": SIZE, "sample": 256, "log_every": 5, "checkpoint_every": 1e9, "dead_after": 64, "lr": 1e-2}
    return TrainConfig(**few | changes)


def made(name, **settings):
    kind = DICTIONARIES[name]
    small = kind.sized(D_IN, D_SAE, L0)
    return lambda: kind(D_IN, type(small.config)(**{**vars(small.config), **settings}))


def member(job, shards, make, folder, batches=Batches, **changes):
    """A training by one process (no job), or by all of a job."""
    ranks = Group(job, shards, CPU) if job else ALONE
    dictionary = ranks.hold(make, CPU)
    all_rows = batches(make())
    return Member(Trainer(dictionary, config(**changes), folder, ranks=ranks), ranks.part(all_rows))


def train(job, shards, name, folder, settings=None, **changes):
    """Trains to the end, and gives the log and what the folder then holds."""
    fit([member(job, shards, made(name, **(settings or {})), Path(folder), **changes)])
    kept = [{name: row.metrics[name] for name in sorted(row.metrics) if name != "tokens_per_second"} for row in read_log(Path(folder))]
    return [(row.step, row.tokens, metrics) for row, metrics in zip(read_log(Path(folder)), kept, strict=True)]
