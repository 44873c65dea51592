"""Training straight from the subject, without captured activations: a ring buffer of rows with random replacement in place.

The buffer holds many times more rows than a batch has. A batch takes random slots without repeats, and fresh rows from the subject, which
reads random windows, come into these very slots: nothing is moved and nothing is permuted. A row stays for `rows / size` batches on
average, so that the tokens of a window are scattered over as many.

Which slots and which windows come follows from the seed and the number of the step. The contents of the buffer are part of its state. They
are large (600 MB for half a million rows of SmolLM2-135M in bfloat16), but to make them again would take a forward pass over nearly all
windows of the last dozen fillings, and on a GPU perhaps not give the same bits.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saelab.activations.base import Chunk
from saelab.activations.forward import ForwardConfig
from saelab.activations.labelled import LabelledStream
from saelab.activations.prefetch import AHEAD, sent
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
        self._x: Float[Tensor, "row d_in"] | None = None
        self._coming = torch.empty(0, store.d_in, dtype=store.dtype, device=store.device)
        self._reading: deque[Callable[[], Chunk]] = deque()
        self._stream = torch.cuda.Stream(store.device) if store.device.type == "cuda" else None

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
        """Contents, rows read but not yet put in, and the place in the stream."""
        assert self._x is not None, "a buffer has a state once it has given a batch"
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

    def _fill(self) -> None:
        self._step = self._portion = 0
        self._reading.clear()
        self._x, self._coming = self._coming.new_empty(self.rows, self.store.d_in), self._coming[:0]
        for part in self._x.split(self.size):
            part.copy_(self._fresh(len(part)))

    def _drawn(self) -> Float[Tensor, "batch d_in"]:
        """The next batch; its slots have fresh rows already."""
        assert self._x is not None, "a buffer is filled before it is drawn from"
        noise = np.random.default_rng((self.seed, self._step))
        slots = sent(torch.from_numpy(noise.choice(self.rows, self.size, replace=False)), self.store.device)
        batch = self._x[slots].float()
        self._x[slots] = self._fresh(self.size)
        self._step += 1
        return batch

    def _fresh(self, count: int) -> Float[Tensor, "count d_in"]:
        """The next rows of the stream."""
        while len(self._coming) < count:
            self._coming = torch.cat([self._coming, self._read()])
        fresh, self._coming = self._coming[:count], self._coming[count:]
        return fresh

    def _read(self) -> Float[Tensor, "row d_in"]:
        """The rows of the next portion. A GPU reads the portions after it beside the training, so that this one is there when it is due."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            while len(self._reading) <= (AHEAD if self._stream else 0):
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
