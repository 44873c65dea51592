"""Training straight from the subject, without captured activations: a ring buffer of rows with random replacement in place.

The buffer holds many times more rows than a batch has. A batch takes random slots without repeats, and fresh rows from the subject, which
reads random windows, come into these very slots: no row is moved. The slots are those of a round, in which each comes once, in an order of
its own. A row stays for `rows / size` batches on average, so that the tokens of a window are scattered over as many.

Which slots and which windows come follows from the seed and the number of the step. As the batches of a round share no slot, several of
them, as many as there are fresh rows for, are taken out at once: a GPU is told so in a few words. The contents of the buffer are part of
its state. They are large (600 MB for half a million rows of SmolLM2-135M in bfloat16), but to make them again would take a forward pass
over nearly all windows of the last dozen fillings, and on a GPU perhaps not give the same bits.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.base import Chunk
from saelab.activations.forward import ForwardConfig
from saelab.activations.labelled import LabelledStream
from saelab.activations.prefetch import AHEAD
from saelab.activations.shuffle import seeded
from saelab.activations.stream import SubjectStore
from saelab.devices import free_memory
from saelab.errors import Conflict, Invalid
from saelab.values import value

_SPARE = 0.9
"""Share of the free memory that the buffer may take."""


@value
class BufferConfig(ForwardConfig):
    """The buffer between subject and training, and how it is filled."""

    rows: int = 2**19
    """Activations in it; no more than the training documents give."""


class RingBuffer:
    """Batches of random rows from a subject; `Resumable`.

    Arguments:
    - `store`: runs the subject; the buffer lies on its device.
    - `rows`: rows in the buffer; no more than the store has are taken.
    - `size`: rows of a batch.
    - `seed`: seed of windows and slots.

    Raises `Invalid` for a buffer smaller than a batch, and for one that the memory does not hold, with how much is needed and free.
    """

    def __init__(self, store: SubjectStore | LabelledStream, rows: int, size: int, seed: int) -> None:
        self.store, self.size, self.seed = store, size, seed
        self.rows = min(rows, store.need_rows(False))
        if not 1 <= size <= self.rows:
            raise Invalid(
                f"A batch of {size} rows cannot be drawn from a buffer of {self.rows}. Give a larger buffer, more text, or smaller batches."
            )
        _need_memory(self.rows, store.d_in * store.dtype.itemsize, store.device)
        self._step = self._portion = 0
        self._round, self._order = -1, torch.empty(0, dtype=torch.long)
        self._slots, self._taken = self._order, deque[Tensor]()
        self._x: Float[Tensor, "row d_in"] | None = None
        self._coming = torch.empty(0, store.d_in, dtype=store.dtype, device=store.device)
        self._reading: deque[Callable[[], Chunk]] = deque()
        self._ahead = AHEAD if store.device.type == "cuda" else 0

    def __call__(self, step: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """The batches from a step on, in float32, endless.

        From where the buffer stands, at once; from an earlier step by filling it anew, and through all the steps between.
        """
        if self._x is None or step < self._step:
            self._fill()
        while True:
            batch = self._drawn()
            if self._step > step:
                yield batch

    def state(self) -> dict[str, Tensor]:
        """Contents, rows read but not yet put in, and the place in the stream. Batches that nobody had yet go back into their slots."""
        assert self._x is not None, "a buffer has a state once it has given a batch"
        if self._taken:
            taken = torch.cat(list(self._taken))
            slots = self._slots[-len(taken) :]
            self._coming = torch.cat([self._x[slots], self._coming])
            self._x[slots] = taken
            self._taken.clear()
        return {"x": self._x, "coming": self._coming, "place": torch.tensor([self._step, self._portion])}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a state. Raises `Conflict` for one of a buffer of another size."""
        x, shape = state["x"], (self.rows, self.store.d_in)
        if x.shape != shape or x.dtype != self.store.dtype:
            raise Conflict(
                f"The checkpoint holds a buffer of shape {list(x.shape)} ({x.dtype}), where {list(shape)} ({self.store.dtype}) was "
                "expected. Use the settings that it was made with, or delete it to train anew."
            )
        self._x, self._coming = x.to(self.store.device), state["coming"].to(self.store.device)
        self._step, self._portion = (int(number) for number in state["place"])
        self._reading.clear()
        self._taken.clear()

    def _fill(self) -> None:
        self._step = self._portion = 0
        self._reading.clear()
        self._taken.clear()
        self._x, self._coming = self._coming.new_empty(self.rows, self.store.d_in), self._coming[:0]
        for part in self._x.split(self.size):
            self._need(len(part))
            part.copy_(self._coming[: len(part)])
            self._coming = self._coming[len(part) :]

    def _drawn(self) -> Float[Tensor, "batch d_in"]:
        """The next batch; its slots have fresh rows already."""
        if not self._taken:
            self._take()
        self._step += 1
        return self._taken.popleft().float()

    def _take(self) -> None:
        """Takes batches of one round out of the buffer, as many as there are fresh rows for, one at least, and puts these in."""
        assert self._x is not None, "a buffer is filled before it is drawn from"
        self._need(self.size)
        of_round = self.rows // self.size
        number, first = divmod(self._step, of_round)
        count = min(len(self._coming) // self.size, of_round - first)
        self._slots = self._order_of(number)[first * self.size : (first + count) * self.size]
        self._taken.extend(self._x[self._slots].split(self.size))
        fresh, self._coming = self._coming.split([len(self._slots), len(self._coming) - len(self._slots)])
        self._x[self._slots] = fresh

    def _order_of(self, number: int) -> Int[Tensor, " row"]:
        """The order of the slots in a round, made where the buffer lies; the last one is kept."""
        if number != self._round:
            noise = seeded(self.seed, number, device=self.store.device)
            self._round, self._order = number, torch.randperm(self.rows, generator=noise, device=self.store.device)
        return self._order

    def _need(self, count: int) -> None:
        """Reads until so many rows of the stream have come."""
        while len(self._coming) < count:
            self._coming = torch.cat([self._coming, self._read()])

    def _read(self) -> Float[Tensor, "row d_in"]:
        """The rows of the next portion. A GPU reads the portions after it beside the training, so that this one is there when it is due."""
        while len(self._reading) <= self._ahead:
            self._reading.append(self.store.begin(self.seed, self._portion + len(self._reading)))
        self._portion += 1
        return self._reading.popleft()().x


def _need_memory(rows: int, row_bytes: int, device: torch.device) -> None:
    free, need = free_memory(device), rows * row_bytes
    if need > _SPARE * free:
        raise Invalid(
            f"Too little memory for the buffer: {rows:,} activations of {row_bytes:,} bytes need {need / 2**30:.2f} GiB on {device}, where "
            f"{free / 2**30:.2f} GiB are free, of which the buffer may take {_SPARE:.0%}. Give {int(_SPARE * free / row_bytes):,} rows or "
            "fewer."
        )
