"""The processes that torchrun started: which of them this is, and what they do one after another.

    torchrun --nproc-per-node 2 -m saelab train RUN ...

torchrun watches its processes and ends all of them when one fails or is killed. What it cannot see, such as a machine that has vanished,
ends the others after `PATIENCE`, in the operation that waits for it.
"""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from saelab.errors import Conflict, Invalid, SaelabError

T = TypeVar("T")
PATIENCE = timedelta(seconds=50)
"""How long a process waits for others that should be where it is."""
_LONG = timedelta(days=7)
"""How long it waits for work that the leading process does alone: torchrun ends it if that one fails."""


class Job:
    """This process among those of its job.

    Arguments:
    - `rank`, `size`: its number and their number.
    - `store`: what they all can write to and read from; none where it is alone.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None) -> None:
        self.rank, self.size, self._store = rank, size, store
        self.leads = rank == 0
        """Whether it does what must be done once."""
        self._done = 0

    def need_alone(self) -> None:
        """Raises `Invalid` for several processes, where there is work that they cannot share."""
        if self.size > 1:
            raise Invalid(
                f"torchrun started {self.size} processes, but only capture, train, sweep and collect share their work among "
                "several. Run this command alone."
            )

    def led(self, work: Callable[[], T]) -> T | None:
        """Work that the leading process does while the others wait; what it finds there, none elsewhere."""
        found = work() if self.leads else None
        self._done += 1
        if self._store is not None:
            key = f"saelab/led/{self._done}"
            if self.leads:
                self._store.set(key, "done")
            else:
                self._store.wait([key], _LONG)
        return found

    def meet(self) -> None:
        """Waits for all processes, however long they take."""
        self._done += 1
        if self._store is None:
            return
        key = f"saelab/met/{self._done}"
        if self._store.add(key, 1) == self.size:
            self._store.set(key + "/all", "here")
        self._store.wait([key + "/all"], _LONG)

    def speaks_first(self) -> bool:
        """Whether no other process has said yet why the job ends."""
        return self._store is None or self._store.add("saelab/error", 1) == 1


ALONE = Job()
"""A process that torchrun did not start."""
_current = ALONE


def current() -> Job:
    """This process in the job that it belongs to; alone where it belongs to none."""
    return _current


@contextmanager
def joined() -> Generator[Job]:
    """Joins the other processes, where torchrun started this one, and leaves them at the end.

    The first process that fails raises its error, all others end quietly. Raises `Conflict` where another process is gone.
    """
    global _current
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield _current
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=PrefixStore("torch", store), rank=rank, world_size=size, timeout=PATIENCE)
    _current = job = Job(rank, size, store)
    try:
        yield job
        job.meet()
        dist.destroy_process_group()
    except (SaelabError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_of_others(error):
            raise
        if not job.speaks_first():
            sys.exit(1)
        if isinstance(error, SaelabError):
            raise
        raise Conflict(
            f"Process {rank} lost the others: one has ended, or has not answered for {PATIENCE.seconds} seconds. torchrun names the first "
            f"that failed. Run the same command again; it goes on from the last checkpoint. ({str(error).splitlines()[0]})"
        ) from None
    finally:
        _current = ALONE


def _is_of_others(error: RuntimeError) -> bool:
    """Whether communication failed; gloo's errors have no class of their own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
