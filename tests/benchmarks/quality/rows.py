"""Activations of all windows as rows in one tensor on the device, in an order that every trainer shares.

Position 0 and rows over six times the median norm are left out. The rest has the training rows' mean taken off and is divided by one scale,
so that the mean square of an element is 1; `raw` undoes it where a reconstruction is spliced into the subject.
"""

import io
import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saelab.subject import Subject, SubjectConfig

HOOK = "blocks.14.hook_resid_post"
MASSIVE, PIECE = 6.0, 2**18


@dataclass
class Text:
    """The windows that `text.py` wrote."""

    tokens: np.ndarray
    begin: np.ndarray
    length: np.ndarray
    document: np.ndarray
    held_out: np.ndarray

    @classmethod
    def read(cls, file: Path, windows: int | None = None) -> "Text":
        """All windows, or so many spread over them."""
        found: Mapping[str, np.ndarray] = np.load(io.BytesIO(lzma.decompress(file.read_bytes())))
        length = found["length"].astype(np.int64)
        begin = np.cumsum(length) - length
        every = np.arange(len(length)) if windows is None else np.linspace(0, len(length) - 1, windows).astype(np.int64)
        return cls(found["tokens"], begin[every], length[every], found["document"][every], found["held_out"][every])

    def padded(self, windows: np.ndarray) -> Tensor:
        """Token ids of some windows, padded on the right to the longest."""
        width = int(self.length[windows].max())
        inside = np.arange(width) < self.length[windows][:, None]
        ids = np.zeros(inside.shape, dtype=np.int64)
        ids[inside] = np.concatenate([self.tokens[self.begin[i] : self.begin[i] + self.length[i]] for i in windows])
        return torch.from_numpy(ids)


@dataclass
class Rows:
    """Training and held-out rows with what was taken off them."""

    train: Tensor
    held_out: Tensor
    document: np.ndarray
    """Document of each held-out row."""
    mean: Tensor
    scale: Tensor
    limit: float
    """Largest norm of a raw row that was kept."""
    _orders: dict[int, Tensor] = field(default_factory=dict)

    def batch(self, step: int, size: int) -> Tensor:
        """The rows of a step: a permutation of all rows for every pass over them, the same for everybody."""
        first = step * size
        n, last = len(self.train), first + size
        begins = [first, *range((first // n + 1) * n, last, n)]
        return self.train[torch.cat([self._order(at // n)[at % n :][: last - at] for at in begins])].float()

    def batches(self, steps: int, size: int) -> Iterator[Tensor]:
        return (self.batch(step, size) for step in range(steps))

    def _order(self, number: int) -> Tensor:
        if number not in self._orders:
            order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(number))
            self._orders[number] = order.to(self.train.device)
        return self._orders[number]

    def standard(self, raw: Tensor) -> Tensor:
        return (raw.float() - self.mean) / self.scale

    def raw(self, rows: Tensor) -> Tensor:
        return rows * self.scale + self.mean


def load_subject(model: str, device: str) -> Subject:
    return Subject.load(SubjectConfig(model=model, dtype="bfloat16", device=device))


def capture(subject: Subject, text: Text, batch_windows: int) -> Rows:
    """Runs the subject over all windows, those of like length together, each side of the split into a tensor of its own."""
    limit = _limit(subject, text, batch_windows)
    document: list[np.ndarray] = []
    sides: list[Tensor] = []
    for held_out in (False, True):
        windows = np.flatnonzero(text.held_out == held_out)
        width = subject.model.config.hidden_size
        rows = torch.empty(int((text.length[windows] - 1).sum()), width, dtype=torch.bfloat16, device=subject.device)
        filled = 0
        for chosen, x, counted in _forward(subject, text, windows, batch_windows):
            kept = counted & (x.float().norm(dim=-1) <= limit)
            piece = x[kept]
            rows[filled : filled + len(piece)] = piece
            filled += len(piece)
            if held_out:
                document.append(np.repeat(text.document[chosen], kept.sum(1).cpu().numpy()))
        sides.append(rows[:filled])
    mean, scale = _statistics(sides[0])
    rows = Rows(sides[0], sides[1], np.concatenate(document), mean, scale, limit)
    for side in sides:
        for piece in side.split(PIECE):
            piece.copy_(rows.standard(piece))
    return rows


def _forward(subject: Subject, text: Text, windows: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Windows, their activations, and which positions count."""
    order = windows[np.argsort(-text.length[windows], kind="stable")]
    for at in range(0, len(order), batch):
        chosen = order[at : at + batch]
        x = subject.activations(text.padded(chosen), [HOOK])[HOOK]
        position = torch.arange(x.shape[1], device=x.device)
        yield chosen, x, (position > 0) & (position < torch.from_numpy(text.length[chosen]).to(x.device)[:, None])


def _limit(subject: Subject, text: Text, batch: int) -> float:
    """Six times the median norm over windows spread over the text, to four digits."""
    some = np.linspace(0, len(text.length) - 1, min(batch, len(text.length))).astype(np.int64)
    norms = [x[counted].float().norm(dim=-1) for _, x, counted in _forward(subject, text, some, batch)]
    return float(f"{MASSIVE * float(torch.cat(norms).median()):.4g}")


def _statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the rows, and the root mean square of an element around it, summed in float64."""
    total = torch.stack([piece.double().sum(0) for piece in rows.split(PIECE)]).sum(0)
    mean = total / len(rows)
    square = torch.stack([(piece.double() - mean).square().sum() for piece in rows.split(PIECE)]).sum()
    return mean.float(), (square / rows.numel()).sqrt().float()
