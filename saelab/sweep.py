"""A sweep: many dictionaries trained in lockstep, in one pass over their activations.

Each member keeps its own state, folder, log and random numbers, so that it ends with the same bits as if it had been trained alone. The
members may differ in everything: width, k, architecture, seed, learning rate, hook, length. All checkpoints are written at one moment; a
kill among them leaves those of two steps, and then a batch goes to the members that have not had it yet.

Batches are read, made and moved to the device once for all members; the steps themselves are taken one after another. Stacking the
members' products and optimisers was measured, and does not pay: docs/decisions/STACK.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from saelab.checkpoint import CHECKPOINT_FILE
from saelab.dictionary import save_dictionary
from saelab.errors import Invalid
from saelab.progress import track
from saelab.training import Batches, Trainer


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
    trainers = [member.trainer for member in members]
    streams = [_Stream(batches, [member for member in members if member.batches is batches]) for batches in _distinct(members)]
    try:
        for trainer in trainers:
            trainer.begin()
        for stream in streams:
            stream.initialise()
        _run(streams, trainers)
    finally:
        for trainer in trainers:
            trainer.close()


def _distinct(members: Sequence[Member]) -> list[Batches]:
    return list({id(member.batches): member.batches for member in members}.values())


def _run(streams: Sequence["_Stream"], trainers: Sequence[Trainer]) -> None:
    longest = max(trainers, key=lambda trainer: trainer.config.steps).config
    size, first = longest.batch_size, min(trainer.steps_done for trainer in trainers)
    saved = began = time.monotonic()
    before = {id(trainer): trainer.seconds for trainer in trainers}
    steps = range(first, longest.steps)
    for step in track(steps, stage="train", total=longest.steps * size, unit="tokens", done=first * size, size=size):
        for stream in streams:
            for member in stream.step(step):
                member.trainer.seconds = before[id(member.trainer)] + time.monotonic() - began
                stream.settle(member)
        if time.monotonic() - saved >= min(trainer.config.checkpoint_every for trainer in trainers):
            for stream in streams:
                stream.save()
            saved = time.monotonic()


class _Stream:
    """Batches, and the members that read them, each from where it stands."""

    def __init__(self, batches: Batches, members: Sequence[Member]) -> None:
        self.batches, self.members = batches, members
        self.size = members[0].trainer.config.batch_size
        self.coming: Iterator[Tensor] | None = None
        if any(member.trainer.config.batch_size != self.size for member in members):
            raise Invalid("Members of a sweep that read the same batches need the same batch_size. Give each batch size its own batches.")

    def initialise(self) -> None:
        """Sets the weights of the members that have none from the first batches."""
        new = [member for member in self.members if not member.trainer.steps_done]
        if new:
            steps = [-(-member.trainer.config.sample // self.size) for member in new]
            sample = [x.float() for x in islice(self.batches(0), max(steps))] or [torch.zeros(0, 0)]
            for member, count in zip(new, steps, strict=True):
                rows = member.rows(torch.cat(sample[:count]))
                if not bool(rows.isfinite().all()):
                    raise self._strange(member, 0, count) or AssertionError("the same batches come at every call")
                member.trainer.initialise(rows)

    def step(self, number: int) -> Iterator[Member]:
        """One step of the members that stand at this one; gives each when it has done it."""
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
            yield member

    def settle(self, member: Member) -> None:
        """What follows a step: the log, and the end."""
        trainer = member.trainer
        if trainer.due():
            self._need_finite(member)
            trainer.log()
        if trainer.steps_done == trainer.config.steps:
            self._finish(member)

    def _finish(self, member: Member) -> None:
        folder = member.trainer.folder
        if folder is not None:
            save_dictionary(member.trainer.dictionary, folder)
        if member.finished is not None:
            member.finished(member.trainer)
        if folder is not None:
            (folder / CHECKPOINT_FILE).unlink(missing_ok=True)

    def save(self) -> None:
        """The checkpoints of all members that are not at their end."""
        for member in self.members:
            if member.trainer.steps_done < member.trainer.config.steps:
                self._need_finite(member)
                member.trainer.save()

    def _need_finite(self, member: Member) -> None:
        """Nothing is logged or saved of a training whose rows were not finite."""
        trainer = member.trainer
        if not trainer.finite():
            strange = self._strange(member, trainer.last_row[0], trainer.steps_done)
            if strange is not None:
                raise strange

    def _strange(self, member: Member, first: int, last: int) -> Invalid | None:
        """What to raise where a row of the batches from one step to another is not finite. They are made again to find it, so that the
        step itself needs no look at them.
        """
        for step, x in zip(range(first, last), self.batches(first), strict=False):
            rows = (~member.rows(x).isfinite().all(1)).nonzero()[:, 0].tolist()
            if rows:
                place = f" ({self.batches.place(step, rows[0])})" if isinstance(self.batches, Traceable) else ""
                return Invalid(
                    f"The activations of step {step + 1} are not finite: row {rows[0]}{place} and {len(rows) - 1} others of {len(x)}. "
                    "Nothing of it has been saved. Mend them, or capture them again."
                )
        return None
