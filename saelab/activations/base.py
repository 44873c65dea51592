"""Activations with the place that each of them comes from, and the stores that hold them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from saelab.corpus import TokenPolicy
from saelab.errors import Invalid
from saelab.values import to_dict

StoreDtype = Literal["bfloat16", "float32"]
"""What activations are stored as."""


@runtime_checkable
class Resumable(Protocol):
    """Training batches with a state of their own.

    Like all batches they can be asked for from any step on and are the same at every call. Making them from the beginning may take long;
    the state is the short way: `Trainer` keeps it in its checkpoint and gives it back before it asks for the batches that are left.
    """

    def __call__(self, step: int) -> Iterator[Float[Tensor, "row width"]]:
        """The batches from a step on."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What is needed to go on after the last batch that was handed out; tensors in use, not copies."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a state. Raises `Conflict` for one of other batches than these."""
        ...


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
    hook: Int[Tensor, " row"] | None = None
    """Number of the hook that each row was taken at, where a store pools several; none where there is one."""


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
    exact: bool = True
    """Whether `chunk_rows` is exact. A store that runs the subject as it is read counts massive activations too, until it meets them."""

    @abstractmethod
    def chunk_rows(self, held_out: bool | None = None) -> tuple[int, ...]:
        """Rows of each chunk, known without reading it.

        Arguments:
        - `held_out`: only held-out documents, only the others, or all.
        """

    @abstractmethod
    def chunk(self, number: int, held_out: bool | None = None) -> Chunk:
        """One chunk, or its part that is held out, or the rest of it. Raises `Corrupt` naming a file that is torn."""

    def part(self, number: int, held_out: bool | None = None) -> tuple[Float[Tensor, "row d_in"], Int[Tensor, " kept"] | None]:
        """The activations of a chunk, and which rows of them are asked for, none for all: for who copies them elsewhere in any case."""
        return self.chunk(number, held_out).x, None

    def places(self, number: int, held_out: bool | None = None) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """Window and position of each row of a chunk."""
        chunk = self.chunk(number, held_out)
        return chunk.window, chunk.position

    def described(self) -> dict[str, Any]:
        """What the stores of one capture have in common, as JSON: stores that differ here cannot be put together."""
        return {"policy": to_dict(self.policy), "chunks": len(self.chunk_rows())}

    @property
    def max_norms(self) -> tuple[float | None, ...]:
        """`max_norm` at each hook, where a store holds several."""
        return (self.max_norm,)

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
        for number in self._numbers(held_out)[start:]:
            yield self.chunk(number, held_out)

    def _numbers(self, held_out: bool | None) -> list[int]:
        return [number for number, rows in enumerate(self.chunk_rows(held_out)) if rows]

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
    return rows_of(chunk, is_held_out if held_out else ~is_held_out)


def rows_of(chunk: Chunk, kept: Tensor) -> Chunk:
    """Some rows of a chunk, by a mask or by their numbers; these lie on the CPU, wherever the activations do."""
    hook = None if chunk.hook is None else chunk.hook[kept]
    return Chunk(x=chunk.x[kept.to(chunk.x.device)], window=chunk.window[kept], position=chunk.position[kept], hook=hook)
