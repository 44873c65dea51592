"""Rows for analyses: some activations with the place of each, and the codes of dictionaries on them."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from saelab.activations.base import Chunk
from saelab.dictionary import Dictionary
from saelab.errors import Invalid
from saelab.lab import Lab

_PART = 4096
_SPREAD = 16
"""Chunks that a sample is taken from, at least, where there are so many."""
_STRETCHES = 1000
"""Stretches of a file of bare vectors that intervals are resampled over, at most."""
CodeMatrix = Any
"""Codes of some rows, `[row feature]`: a scipy sparse array, which has no types."""


@dataclass(frozen=True)
class Rows:
    """Some rows of the dictionary's activations: whole windows, in no order of meaning."""

    x: Float[Tensor, "row width"]
    """Training rows: what the dictionary reads, and behind it its target, if any."""
    window: Int[np.ndarray, " row"]
    """Number of the window of each."""
    position: Int[np.ndarray, " row"]
    """Position in the window."""
    document: Int[np.ndarray, " row"]
    """What each is resampled with: its document, or among bare vectors its neighbours in the file."""

    def __len__(self) -> int:
        return len(self.window)

    def where(self, kept: Bool[np.ndarray, " row"] | Int[np.ndarray, " some"]) -> Self:
        """Some of the rows."""
        numbers = np.flatnonzero(kept) if kept.dtype == np.bool_ else kept
        return type(self)(self.x[torch.from_numpy(numbers)], self.window[numbers], self.position[numbers], self.document[numbers])


def documents_of(lab: Lab) -> Int[np.ndarray, " window"]:
    """What each window is resampled with: its document; among bare vectors, its neighbours in the file."""
    if lab.vectors is None:
        return lab.corpus.window_document.astype(np.int64)
    return np.arange(lab.store.num_rows) * min(_STRETCHES, lab.store.num_rows) // lab.store.num_rows


def sample_rows(lab: Lab, count: int, seed: int, held_out: bool) -> Rows:
    """About `count` rows of random windows, or all where there are fewer; from as few chunks as keep them spread over the corpus.

    Raises `Invalid` where there is none, or for a count below 2.
    """
    if count < 2:
        raise Invalid(f"rows is {count}; an analysis needs 2 or more.")
    lab.store.need_rows(held_out)
    draw = np.random.default_rng((seed, held_out))
    rows = lab.store.chunk_rows(held_out)
    numbers = draw.permutation(np.flatnonzero(rows))
    share = -(-count // min(_SPREAD, len(numbers)))
    parts: list[Chunk] = []
    for number in numbers:
        if sum(len(part.x) for part in parts) >= count:
            break
        parts.append(_some_windows(lab.store.chunk(int(number), held_out), share, draw))
    window = np.concatenate([part.window.numpy() for part in parts]).astype(np.int64)
    return Rows(
        x=torch.cat([part.x.float() for part in parts])[:count],
        window=window[:count],
        position=np.concatenate([part.position.numpy() for part in parts]).astype(np.int64)[:count],
        document=documents_of(lab)[window[:count]],
    )


def _some_windows(chunk: Chunk, count: int, draw: np.random.Generator) -> Chunk:
    """Random whole windows of a chunk with about so many rows."""
    of_row = chunk.window.numpy()
    known, place, sizes = np.unique(of_row, return_inverse=True, return_counts=True)
    order = draw.permutation(len(known))
    enough = int(np.searchsorted(np.cumsum(sizes[order]), count)) + 1
    kept = torch.from_numpy(np.isin(place, order[:enough]))
    return Chunk(x=chunk.x[kept.to(chunk.x.device)].cpu(), window=chunk.window[kept], position=chunk.position[kept])


@torch.inference_mode()
def codes_of(dictionary: Dictionary, x: Float[Tensor, "row width"]) -> CodeMatrix:
    """The codes of a dictionary on some rows, as a sparse array `[row feature]` in float64."""
    parts: list[Any] = []
    for part in x.split(_PART):
        codes = dictionary.encode(part[:, : dictionary.d_in].to(dictionary.directions))
        used = (codes.values != 0).cpu()
        row, _ = used.nonzero(as_tuple=True)
        shape = (len(part), dictionary.d_sae)
        values = codes.values.cpu()[used].double().numpy()
        parts.append(sparse.csr_array((values, (row.numpy(), codes.indices.cpu()[used].numpy())), shape=shape))
    return sparse.vstack(parts, format="csr")
