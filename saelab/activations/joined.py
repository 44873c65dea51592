"""Rows of several hooks at the same token side by side, for transcoders and crosscoders."""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from saelab.activations.base import ActivationStore, Chunk, rows_of
from saelab.errors import Invalid
from saelab.run import differences


class JoinedStore(ActivationStore):
    """Several stores of one capture as one: a row holds the activations of one token at all hooks, side by side in the order given.

    A token that is massive at any of the hooks is left out at all of them.

    Arguments:
    - `stores`: the stores, two at least.

    Raises `Invalid` naming what differs where they are not of one capture.
    """

    stores: tuple[ActivationStore, ...]
    """The stores that are joined."""
    widths: tuple[int, ...]
    """Width of each store's activations; a row has their sum."""

    def __init__(self, stores: Sequence[ActivationStore]) -> None:
        need_one_capture(stores)
        self.stores = tuple(stores)
        self.widths = tuple(store.d_in for store in stores)
        self.hook = " + ".join(store.hook for store in stores)
        self.d_in, self.policy, self.max_norm = sum(self.widths), stores[0].policy, None
        self.exact = all(store.exact for store in stores)

    @property
    def max_norms(self) -> tuple[float | None, ...]:
        """Norm at each hook above which an activation is massive."""
        return tuple(store.max_norm for store in self.stores)

    def chunk_rows(self, held_out: bool | None = None) -> tuple[int, ...]:
        """Rows of each chunk."""
        return self._rows[held_out]

    @cached_property
    def _rows(self) -> dict[bool | None, tuple[int, ...]]:
        """Exact stores are asked for their places, which costs little; of others, which run the subject, the first tells enough."""
        if not self.exact:
            return {kind: self.stores[0].chunk_rows(kind) for kind in (None, True, False)}
        numbers = range(len(self.stores[0].chunk_rows()))
        counts = {kind: tuple(len(_shared(self._places(number, kind))) for number in numbers) for kind in (None, True)}
        return {**counts, False: tuple(every - held for every, held in zip(counts[None], counts[True], strict=True))}

    def _places(self, number: int, held_out: bool | None) -> list[Int[Tensor, " row"]]:
        return [_place(*store.places(number, held_out), self.policy.context) for store in self.stores]

    def chunk(self, number: int, held_out: bool | None = None) -> Chunk:
        """One chunk, or its part of one kind. Raises what the stores raise."""
        return joined([store.chunk(number, held_out) for store in self.stores], self.policy.context)


def joined(chunks: Sequence[Chunk], context: int) -> Chunk:
    """Chunks of several hooks on the same windows, side by side: the tokens that all of them hold.

    Arguments:
    - `context`: tokens in a window, at most.
    """
    if len(chunks) == 1:
        return chunks[0]
    places = [_place(chunk.window, chunk.position, context) for chunk in chunks]
    shared = _shared(places)
    first, *others = [rows_of(chunk, torch.isin(place, shared)) for chunk, place in zip(chunks, places, strict=True)]
    return Chunk(x=torch.cat([first.x, *(other.x for other in others)], dim=-1), window=first.window, position=first.position)


def need_one_capture(stores: Sequence[ActivationStore]) -> None:
    """Raises `Invalid` naming what differs where stores are not of one capture, or are fewer than two."""
    if len(stores) < 2:
        raise Invalid(f"Stores of two hooks at least are needed, and {len(stores)} was given.")
    for other in stores[1:]:
        changed = differences(stores[0].described(), other.described())
        if changed:
            lines = "\n".join(f"  {line}" for line in changed)
            raise Invalid(
                f"The activations of {stores[0].hook} and {other.hook} are not of one capture:\n{lines}\n"
                "Capture both in one run, with the same settings."
            )


def _place(window: Int[Tensor, " row"], position: Int[Tensor, " row"], context: int) -> Int[Tensor, " row"]:
    """A number for each place in the corpus."""
    return window * context + position


def _shared(places: Sequence[Int[Tensor, " row"]]) -> Int[Tensor, " row"]:
    """The numbers that are in all lists, each of which holds a number once."""
    numbers, times = torch.cat(list(places)).unique(return_counts=True)
    return numbers[times == len(places)]
