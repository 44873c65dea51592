"""Rows of several hooks in one stream, for one dictionary over a group of layers or over all of them.

- Groups of layers: Ghilardi et al. 2024, "Group-SAE: Efficient Training of Sparse Autoencoders for LLMs via Layer Groups".
- All layers: Lawson et al. 2024, "Residual Stream Analysis with Multi-Layer SAEs".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.base import ActivationStore, Chunk
from saelab.activations.joined import need_one_capture
from saelab.errors import Invalid


class PooledStore(ActivationStore):
    """Several stores of one capture as one: the rows of all hooks, with the number of the hook kept for each (`Chunk.hook`).

    A chunk holds rows of one hook: chunk c of the store numbered h is chunk `c * len(stores) + h`, so that all hooks of a stretch of the
    corpus follow one another. Shuffled batches mix them.

    Arguments:
    - `stores`: the stores, two at least, all of one width.

    Raises `Invalid` naming what differs where they are not of one capture or not of one width.
    """

    stores: tuple[ActivationStore, ...]
    """The stores that are pooled; a row's hook is a number in this order."""

    def __init__(self, stores: Sequence[ActivationStore]) -> None:
        need_one_capture(stores)
        need_one_width({store.hook: store.d_in for store in stores})
        self.stores = tuple(stores)
        self.hook = ", ".join(store.hook for store in stores)
        self.d_in, self.policy, self.max_norm = stores[0].d_in, stores[0].policy, None
        self.exact = all(store.exact for store in stores)

    @property
    def max_norms(self) -> tuple[float | None, ...]:
        """Norm at each hook above which an activation is massive."""
        return tuple(store.max_norm for store in self.stores)

    def chunk_rows(self, held_out: bool | None = None) -> tuple[int, ...]:
        """Rows of each chunk."""
        rows = [store.chunk_rows(held_out) for store in self.stores]
        return tuple(count for counts in zip(*rows, strict=True) for count in counts)

    def chunk(self, number: int, held_out: bool | None = None) -> Chunk:
        """One chunk, or its part of one kind. Raises what the stores raise."""
        place, hook = divmod(number, len(self.stores))
        return _marked(self.stores[hook].chunk(place, held_out), hook)

    def part(self, number: int, held_out: bool | None = None) -> tuple[Float[Tensor, "row d_in"], Int[Tensor, " kept"] | None]:
        """The activations of one chunk, and which rows of them are of one kind."""
        place, hook = divmod(number, len(self.stores))
        return self.stores[hook].part(place, held_out)


def pooled(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks of several hooks one after another, with the number of the hook kept for each row."""
    return Chunk(
        x=torch.cat([chunk.x for chunk in chunks]),
        window=torch.cat([chunk.window for chunk in chunks]),
        position=torch.cat([chunk.position for chunk in chunks]),
        hook=torch.repeat_interleave(torch.arange(len(chunks)), torch.tensor([len(chunk.window) for chunk in chunks])),
    )


def need_one_width(widths: dict[str, int]) -> None:
    """Raises `Invalid` naming hooks of unlike width."""
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{hook} has {width}" for hook, width in widths.items())
        raise Invalid(
            f"Hooks of unlike width cannot be pooled: {listed}. Pool hooks of one kind, such as hook_resid_post of several blocks."
        )


def _marked(chunk: Chunk, hook: int) -> Chunk:
    return Chunk(x=chunk.x, window=chunk.window, position=chunk.position, hook=torch.full_like(chunk.window, hook))
