"""A rank's rows of every batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saelab.errors import Invalid


@dataclass(frozen=True)
class Portion:
    """An equal part of each of some batches: put together in the order of the ranks, the parts are the batch."""

    batches: Callable[[int], Iterator[Float[Tensor, "row width"]]]
    """The batches."""
    rank: int
    """Which part."""
    size: int
    """Number of parts."""

    def __call__(self, step: int) -> Iterator[Float[Tensor, "part width"]]:
        """The parts from a step on. Raises `Invalid` for a batch that cannot be divided evenly."""
        for x in self.batches(step):
            if len(x) % self.size:
                raise Invalid(f"A batch of {len(x)} rows cannot be divided evenly among {self.size} processes. Change batch_size.")
            yield x.chunk(self.size)[self.rank]

    def place(self, step: int, row: int) -> str:
        """Where a row of the part comes from, in words."""
        batches: Any = self.batches
        size = len(next(self(step)))
        return batches.place(step, self.rank * size + row) if hasattr(batches, "place") else f"row {self.rank * size + row} of the batch"
