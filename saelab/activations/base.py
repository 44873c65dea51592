"""Activations with the place that each of them comes from, and the stores that hold them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from saelab.corpus import TokenPolicy
from saelab.errors import Invalid


@dataclass(frozen=True)
class Chunk:
    """Some activations of one hook, in corpus order: whole windows, rows of one window together and by position.

    Only rows that count are in it: never the first position of a window, never a special token.
    """

    x: Float[Tensor, "row d_in"]
    """The activations, in the dtype of the store."""
    window: Int[Tensor, " row"]
    """Number of the window in the corpus."""
    position: Int[Tensor, " row"]
    """Position in the window."""


class ActivationStore(ABC):
    """Activations of one hook on a corpus, in numbered chunks."""

    hook: str
    """Where in the subject they were taken."""
    d_in: int
    """Width of an activation."""
    policy: TokenPolicy
    """How the windows were made, and which positions count."""
    max_norm: float | None
    """Norm above which an activation is massive and left out; none where all are kept."""

    @abstractmethod
    def chunk_rows(self, held_out: bool | None = None) -> tuple[int, ...]:
        """Rows of each chunk, known without reading it.

        Arguments:
        - `held_out`: only held-out documents, only the others, or all.
        """

    @abstractmethod
    def chunk(self, number: int, held_out: bool | None = None) -> Chunk:
        """One chunk, or its part that is held out, or the rest of it. Raises `Corrupt` naming a file that is torn."""

    @property
    def num_rows(self) -> int:
        """All rows, held-out ones included."""
        return sum(self.chunk_rows())

    def chunks(self, held_out: bool | None = None, start: int = 0) -> Iterator[Chunk]:
        """The chunks in corpus order, empty ones left out.

        Arguments:
        - `held_out`: only held-out documents, only the others, or all.
        - `start`: chunks to leave out at the beginning, as many as an interrupted pass has finished.
        """
        numbers = [number for number, rows in enumerate(self.chunk_rows(held_out)) if rows]
        for number in numbers[start:]:
            yield self.chunk(number, held_out)

    def need_rows(self, held_out: bool | None) -> int:
        """Rows of one kind. Raises `Invalid` where there are none."""
        rows = sum(self.chunk_rows(held_out))
        if not rows:
            kind = {None: "activations", True: "activations of held-out documents", False: "activations of documents to train on"}[held_out]
            raise Invalid(f"The store of {self.hook} holds no {kind}. Read more text and capture again.")
        return rows


def part_of(chunk: Chunk, is_held_out: Tensor, held_out: bool | None) -> Chunk:
    """The rows of a chunk that are of one kind, by a mask of the held-out ones."""
    if held_out is None:
        return chunk
    kept = is_held_out if held_out else ~is_held_out
    return Chunk(x=chunk.x[kept], window=chunk.window[kept], position=chunk.position[kept])
