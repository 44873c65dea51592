"""What lies in a folder, a disk that is full, and a small run that can be killed."""

import resource
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from saelab import recipes
from saelab.activations.capture import CaptureConfig
from saelab.analyses.quality import EvaluateConfig
from saelab.features.collect import CollectConfig
from saelab.run import Run
from saelab.saes.topk import TopK
from saelab.texts.toy import ToyTexts
from saelab.training import TrainConfig

SOURCE = "1-res-topk"
"""The dictionary of the toy run."""


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and bytes of every file."""
    return {str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}


def names(folder: Path) -> set[str]:
    """Every file and folder, those aside that a database has only while it is open."""
    return {str(item.relative_to(folder)) for item in folder.rglob("*") if not item.name.endswith(("-wal", "-shm"))}


def copied(run: Run, to: Path) -> Run:
    """A run of its own, to be changed."""
    shutil.copytree(run.path, to)
    return Run(to)


@contextmanager
def full_disk(limit: int = 1000) -> Generator[None]:
    """While open, no file of this process can grow past so many bytes; unlike permissions, that binds the superuser too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small() -> recipes.Recipe:
    """The toy recipe with less of everything, and a checkpoint at every opportunity."""
    toy = recipes.toy()
    train = TrainConfig(steps=60, batch_size=256, lr=1e-3, checkpoint_every=0.0)
    return replace(
        toy,
        texts=ToyTexts(num_documents=120),
        capture=CaptureConfig(hooks=toy.capture.hooks, shard_windows=64),
        train=replace(toy.train, train=train),
        sae=TopK.Config(d_sae=96, k=6),
        evaluate=EvaluateConfig(windows=16),
        collect=CollectConfig(batch=1024, checkpoint=0),
    )


def make_small(path: Path) -> None:
    """Makes the small run on one thread, so that its numbers are always the same."""
    torch.set_num_threads(1)
    recipes.make(Run(path), small())
