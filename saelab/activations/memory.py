"""Activations in memory."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saelab.activations.base import ActivationStore, Chunk, part_of
from saelab.corpus import TokenPolicy
from saelab.errors import Invalid


class MemoryStore(ActivationStore):
    """Activations that live as long as the process.

    Arguments:
    - `hook`: where they were taken.
    - `policy`: how the windows were made.
    - `chunks`: the activations, in corpus order.
    - `is_held_out`: for each chunk, which of its rows are of held-out documents.
    - `max_norm`: norm above which activations were left out.

    Raises `Invalid` without any chunk.
    """

    def __init__(
        self,
        hook: str,
        policy: TokenPolicy,
        chunks: Sequence[Chunk],
        is_held_out: Sequence[Bool[Tensor, "_"]],
        max_norm: float | None = None,
    ) -> None:
        if not chunks:
            raise Invalid(f"A store of {hook} needs one chunk of activations at least.")
        self.hook, self.policy, self.max_norm, self.d_in = hook, policy, max_norm, chunks[0].x.shape[1]
        self._chunks, self._is_held_out = list(chunks), list(is_held_out)

    @classmethod
    def of_vectors(cls, x: Float[Tensor, "row d_in"], is_held_out: Bool[Tensor, " row"] | None = None) -> "MemoryStore":
        """A store of vectors that come from no subject, such as planted ones: each counts as a window of its own."""
        rows = torch.arange(len(x))
        chunk = Chunk(x=x, window=rows, position=torch.zeros_like(rows))
        mask = torch.zeros(len(x), dtype=torch.bool) if is_held_out is None else is_held_out
        return cls("vectors", TokenPolicy(skip_first=0), [chunk], [mask])

    def chunk_rows(self, held_out: bool | None = None) -> tuple[int, ...]:
        """Rows of each chunk."""
        if held_out is None:
            return tuple(len(mask) for mask in self._is_held_out)
        return tuple(int((mask == held_out).sum()) for mask in self._is_held_out)

    def chunk(self, number: int, held_out: bool | None = None) -> Chunk:
        """One chunk, or its part of one kind."""
        return part_of(self._chunks[number], self._is_held_out[number], held_out)
