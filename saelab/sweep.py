"""A sweep: many dictionaries trained in lockstep, in one pass over their activations.

Each member keeps its own state, folder, log and random numbers, so that it ends with the same bits as if it had been trained alone. The
members may differ in everything: width, k, architecture, seed, learning rate, hook, length. All checkpoints are written at one moment; a
kill among them leaves those of two steps, and then a batch goes to the members that have not had it yet.

Batches are read, made and moved to a device once for all members; the steps are taken one after another. Stacked, the encoders' products
of four members of one shape were 1.0 to 1.2 times as fast on a CPU (small ones in bfloat16 up to 1.7), and a product is only a part of a
step: not worth a second step.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from saelab.activations.base import Resumable
from saelab.checkpoint import forget_checkpoint, load_checkpoint, save_checkpoint
from saelab.dictionary import save_dictionary
from saelab.errors import Invalid
from saelab.progress import track
from saelab.training import Batches, Trainer

BATCHES_FILE = "batches.safetensors"
"""State of the batches of an unfinished training, where they have one; in the folder of the first member that reads them."""


@runtime_checkable
class Traceable(Protocol):
    """Batches that know where their rows come from."""

    def place(self, step: int, row: int) -> str:
        """Where a row of the batch of a step (the first is 0) comes from, in words for a message."""
        ...


@dataclass(frozen=True)
class Member:
    """One training of a sweep."""

    trainer: Trainer
    """Its state."""
    batches: Batches
    """What it reads. Members that are given the same object read one stream: each of its batches is made once."""
    columns: slice | None = None
    """The dictionary's part of each row, where a stream carries the activations of several hooks side by side; none for all of it."""
    reads: Mapping[str, Any] = field(default_factory=dict)
    """What the batches are, as JSON: a checkpoint that was made on others is refused."""
    finished: Callable[[Trainer], None] | None = None
    """Called when the dictionary is written, before the checkpoint goes: a kill in between repeats steps, but never a whole training."""

    def rows(self, x: Tensor) -> Tensor:
        """What of a batch is for the dictionary."""
        return x if self.columns is None else x[:, self.columns]


def fit(members: Sequence[Member]) -> None:
    """Trains all members to their ends in one pass over each of their streams, from their checkpoints where there are any.

    Raises `Conflict` if a checkpoint was made with another config, `Corrupt` if it cannot be read, and `Invalid` if members of one stream
    have unlike batch sizes, or if batches end early, have another width than the dictionary, hold values that are not finite (with step
    and row, and where the row comes from), or make training diverge.
    """
    if not members:
        return
    trainers = [member.trainer for member in members]
    streams = [_Stream(batches, [member for member in members if member.batches is batches]) for batches in _distinct(members)]
    try:
        for member in members:
            member.trainer.begin({"straight_from_subject": isinstance(member.batches, Resumable), **member.reads})
        for stream in streams:
            stream.begin()
        _run(streams, trainers)
        for stream in streams:
            stream.end()
    finally:
        for trainer in trainers:
            trainer.close()


def _distinct(members: Sequence[Member]) -> list[Batches]:
    return list({id(member.batches): member.batches for member in members}.values())


def _run(streams: Sequence["_Stream"], trainers: Sequence[Trainer]) -> None:
    longest = max(trainers, key=lambda trainer: trainer.config.steps).config
    size, first = longest.batch_size, min(trainer.steps_done for trainer in trainers)
    every, saved = min(trainer.config.checkpoint_every for trainer in trainers), time.monotonic()
    steps = range(first, longest.steps)
    for step in track(steps, stage="train", total=longest.steps * size, unit="tokens", done=first * size, size=size):
        for stream in streams:
            stream.step(step)
        if trainers[0].ranks.decide(time.monotonic() - saved >= every):  # no two clocks are alike
            for stream in streams:
                stream.save()
            saved = time.monotonic()


class _Stream:
    """Batches, and the members that read them, each from where it stands."""

    def __init__(self, batches: Batches, members: Sequence[Member]) -> None:
        self.batches, self.members = batches, members
        self.size = members[0].trainer.config.batch_size
        self.coming: Iterator[Tensor] | None = None
        folders = [member.trainer.folder for member in members if member.trainer.folder]
        self._file = folders[0] / BATCHES_FILE if folders else None
        if any(member.trainer.config.batch_size != self.size for member in members):
            raise Invalid("Members of a sweep that read the same batches need the same batch_size. Give each batch size its own batches.")

    def begin(self) -> None:
        """Sets the weights of the members that have none from the first batches, and takes up the state of the batches where all have."""
        new = [member for member in self.members if not member.trainer.steps_done]
        if new:
            steps = [-(-member.trainer.config.sample // self.size) for member in new]
            coming = self.batches(0)
            sample = list(islice(coming, max(steps)))
            everyone = [self.members[0].trainer.ranks.everyone(x) for x in sample]
            for member, count in zip(new, steps, strict=True):
                rows = member.rows(torch.cat([x.float() for x in everyone[:count]] or [torch.zeros(0, 0)]))
                if not bool(rows.isfinite().all()) and (strange := self._strange(member, 0, count)):
                    raise strange
                member.trainer.initialise(rows)
            if len(new) == len(self.members):
                self.coming = chain((sample.pop(0) for _ in range(len(sample))), coming)  # a buffer would have to fill itself anew
        elif isinstance(self.batches, Resumable) and self._file and self._file.is_file():
            self.batches.load(load_checkpoint(self._file, {}, torch.device("cpu"))[0])

    def step(self, number: int) -> None:
        """One step of the members that stand at this one, with what follows it: the log, and the end."""
        due = [member for member in self.members if member.trainer.steps_done == number < member.trainer.config.steps]
        if not due:
            self.coming = None
            return
        if self.coming is None:
            self.coming = self.batches(number)
        x = next(self.coming, None)
        if x is None:
            steps = max(member.trainer.config.steps for member in due)
            raise Invalid(f"The batches ended at step {number} of {steps}. Give more activations, or fewer steps.")
        placed = {device: x.to(device) for device in {member.trainer.device for member in due}}
        for member in due:
            rows = member.rows(placed[member.trainer.device])
            member.trainer.need_rows(rows)
            member.trainer.step(rows)
            if member.trainer.due():
                self._need_finite(member)
                member.trainer.log()
            if member.trainer.steps_done == member.trainer.config.steps:
                _finish(member)

    def save(self) -> None:
        """The checkpoints of all members that are not at their end.

        The state of the batches comes last, so that it is never ahead of a member; without it they are made again from the beginning.
        """
        for member in self.members:
            if member.trainer.steps_done < member.trainer.config.steps:
                self._need_finite(member)
                member.trainer.save()
        if isinstance(self.batches, Resumable) and self._file and self.coming is not None:
            save_checkpoint(self._file, self.batches.state(), {}, {})

    def end(self) -> None:
        """All members are at their ends."""
        if self._file:
            self._file.unlink(missing_ok=True)

    def _need_finite(self, member: Member) -> None:
        """Nothing is logged or saved once a loss was not finite."""
        trainer = member.trainer
        if not trainer.finite():
            raise self._strange(member, trainer.last_row[0], trainer.steps_done) or trainer.diverged()

    def _strange(self, member: Member, first: int, last: int) -> Invalid | None:
        """What to raise where the batches of some steps hold a row that is not finite; they are made again, to spare each step a look."""
        for step, x in zip(range(first, last), self.batches(first), strict=False):
            rows = (~member.rows(x).isfinite().all(1)).nonzero()[:, 0].tolist()
            if rows:
                place = f" ({self.batches.place(step, rows[0])})" if isinstance(self.batches, Traceable) else ""
                return Invalid(
                    f"The activations of step {step + 1} are not finite: row {rows[0]}{place}, and {len(rows) - 1} others of {len(x)}. "
                    "Mend them, or capture them again; the training goes on from its last checkpoint."
                )
        return None


def _finish(member: Member) -> None:
    """Writes the dictionary; the checkpoint goes last."""
    trainer, folder = member.trainer, member.trainer.folder
    trainer.optimiser.whole()
    if folder is not None and trainer.ranks.shards > 1:
        trainer.save()  # no process has the whole dictionary: it is read from there

    def written() -> None:
        if folder is not None:
            save_dictionary(trainer.ranks.whole(trainer.dictionary, folder), folder)
        if member.finished is not None:
            member.finished(trainer)
        if folder is not None:
            forget_checkpoint(folder)

    trainer.ranks.led(written)
