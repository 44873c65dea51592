"""What the processes that train one dictionary agree on, as seen by the training step. A process that is alone agrees with itself.

`Ranks` is that process, and the interface: every method leaves what it is given as it is. `saelab.distributed.group.Group` has the same
methods for many processes. The words:

    rank      one of the processes, with a device of its own
    rows      ranks that hold the same features, and different rows of a batch: data parallel
    shards    ranks that hold different features of one dictionary, and the same rows: tensor parallel over the features
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saelab.checkpoint import CHECKPOINT_FILE, POINTER_FILE, load_checkpoint, save_checkpoint
from saelab.distributed.job import Job
from saelab.errors import Invalid
from saelab.kernels.peers import Peers

T = TypeVar("T")
Flat = tuple[Float[Tensor, "*codes"], Int[Tensor, "*codes"], Int[Tensor, " row_starts"] | None]
"""Values, indices, and where each row begins where they are flat."""


class Ranks(Peers):
    """One process that trains alone."""

    size: int = 1
    """Processes that train the dictionary."""
    shards: int = 1
    """Parts that the features are cut into."""
    leads: bool = True
    """Whether this process writes the log and the dictionary."""
    first: int = 0
    """Number of the first feature that it holds."""

    def recordable(self, dictionary: Any) -> bool:  # noqa: ANN401 - a Trainable, which is above this layer
        """Whether its steps can be recorded (`saelab.recording`)."""
        return dictionary.recordable and bool(dictionary.unit_rows())  # free rows take another path

    # What it holds

    def hold(self, make: Callable[[], nn.Module], device: torch.device) -> Any:  # noqa: ANN401 - what `make` gives
        """The dictionary that `make` makes, on the device: all of its features, or those that this rank holds."""
        return make().to(device)

    def drawn(self, d_sae: int, width: int, generator: torch.Generator) -> Float[Tensor, "held width"]:
        """Its rows of a normally distributed matrix; the whole one is the same whoever holds it."""
        return torch.randn(d_sae, width, generator=generator)

    def together(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "all_rows width"]:
        """The rows that the step works on: those that the ranks with other features have read are added to its own."""
        return x

    def part(self, batches: Callable[[int], Iterator[Tensor]]) -> Callable[[int], Iterator[Tensor]]:
        """The part of each batch that this rank reads, from any step on."""
        return batches

    def everyone(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "all_rows width"]:
        """The rows of all ranks."""
        return x

    # What the loss needs of the others

    def mean(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The mean over the ranks with other rows. Its gradient goes to this rank's part alone: gradients are averaged afterwards."""
        return x

    def spread(self, x: Float[Tensor, "row width"]) -> Float[Tensor, ""]:
        """The sum of squared distances from the mean of all rows, over this rank's rows or so that the sum over ranks is right.

        In two passes that write nothing: for rows that are centred, or nearly.
        """
        size = torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
        return size.square() - self.mean(x.sum(0, dtype=size.dtype)).square().sum() / len(x)

    def total(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The sum over the ranks with other features, of which each gave what its own add. The gradient goes to each of them."""
        return x

    def entering(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What all ranks know, on its way to features that each has for itself; makes the mean of its gradients over ranks right."""
        return x

    def count(self, dead: Int[Tensor, " dead"]) -> int:
        """How many features are dead, on this rank and on those with other features."""
        return len(dead)

    def least(self, values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """The smallest value on any rank."""
        return values.min()

    def top(self, values: Float[Tensor, " n"], count: int) -> Float[Tensor, " count"]:
        """The largest values of all features, falling; all where there are fewer."""
        return values.topk(min(count, len(values))).values

    def largest(self, values: Float[Tensor, "row n"], indices: Int[Tensor, "row n"], k: int) -> Flat:
        """Of the codes of largest size among a rank's features those that are among the k largest of all features, row by row."""
        return values, indices, None

    def batch_largest(self, values: Float[Tensor, " n"], indices: Int[Tensor, " n"], starts: Int[Tensor, " row_starts"], k: int) -> Flat:
        """Of codes that are not negative those that are among the largest of all features and rows, k a row on average."""
        return values, indices, starts

    # What the step needs of the others

    def reduce(self, dictionary: nn.Module) -> None:
        """Makes the gradients, terms or dense, those of the whole batch."""

    def elsewhere(self, dictionary: nn.Module) -> list[nn.Parameter]:
        """The weights that another rank counts in the norm of all gradients."""
        return []

    def agree(self, idle: Int[Tensor, " held"], sums: Mapping[str, Tensor]) -> None:
        """Changes, in place, for how long features were idle to how long they were on all rows, and sums to their means over all ranks."""

    # What lies on disk

    def decide(self, due: bool) -> bool:
        """Whether something is due after a step, of which every rank has to think the same."""
        return due

    def led(self, work: Callable[[], T]) -> T | None:
        """What the rank that leads finds, while the others wait however long it takes; there none."""
        return work()

    def save(self, folder: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Writes a checkpoint, whole or not at all. Raises `Conflict` if it cannot be written."""
        save_checkpoint(folder / CHECKPOINT_FILE, state, facts, config)

    def load(self, folder: Path, config: Mapping[str, Any], device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The checkpoint's tensors, as far as this rank holds them, and its facts; none where there is no checkpoint.

        It is the same checkpoint whatever number of ranks wrote it. Raises `Corrupt` for one that cannot be read, and `Conflict` naming
        the fields where its config was another one.
        """
        if (folder / POINTER_FILE).is_file():
            from saelab.distributed.shards import load_shards  # slow to import, and only for what many processes left

            return load_shards(folder, config, device)
        file = folder / CHECKPOINT_FILE
        return load_checkpoint(file, config, device) if file.is_file() else None

    def whole(self, dictionary: T, folder: Path) -> T:
        """The dictionary with all its features, where this rank leads; it is read from the checkpoint in the folder if no rank has them."""
        return dictionary


ALONE = Ranks()
"""The process that was not started by torchrun."""


def ranks_of(job: Job, shards: int, device: torch.device) -> Ranks:
    """How the processes of a job train one dictionary, its features divided among so many of them. Raises `Invalid` where they cannot."""
    if job.size > 1:
        from saelab.distributed.group import Group  # slow to import, and for many processes alone

        return Group(job, shards, device)
    if shards != 1:
        raise Invalid(f"shards is {shards}, but there is only one process. Start as many: torchrun --nproc-per-node {shards} -m saelab ...")
    return ALONE
