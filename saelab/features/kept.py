"""What is kept of each feature: the best items by a key, bounded, and the same in whatever order they were offered.

An item is a number: of a segment, or of a token's place. A key that grows with the activation keeps the strongest items. A key that is a
hash of item and feature keeps a uniform sample of all of them ("bottom-k"; Cohen and Kaplan 2007), which needs no random state: two samples
merge to the sample of both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

TOP = 2**31 - 1
"""The largest key. Keys are whole numbers from 0 on."""
_LEAST_PENDING = 2**15


@dataclass(frozen=True)
class KeptTable:
    """The items kept of every feature, best first."""

    key: Float[np.ndarray, "d_sae kept"]
    """What each was kept for: the magnitude of its activation, or in a uniform sample a number in [0, 1); below 0 where there is none."""
    segment: Int[np.ndarray, "d_sae kept"]
    """Number of the segment, or of the place; -1 where there is none."""
    peak: Float[np.ndarray, "d_sae kept"]
    """Its strongest activation, with sign."""
    levels: Int[np.ndarray, "d_sae kept length"]
    """Its activations in 1/127 of the strongest one."""


def uniform(item: Int[Tensor, " n"], feature: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """A key for each pair, from a hash (splitmix64): the largest ones of a feature are a uniform sample of its items."""
    x = (item.long() * _signed(0x9E3779B97F4A7C15)) ^ ((feature.long() + (seed + 1)) * _signed(0xD1B54A32D192ED03))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ _right(x, shift)) * _signed(factor)
    return _right(x, 33).int()


def strongest(value: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """A key that orders activations above 0 as they are: the bits of a positive float32 grow with it."""
    return value.float().contiguous().view(torch.int32)


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


def _right(x: Int[Tensor, " n"], shift: int) -> Int[Tensor, " n"]:
    """Shift that fills with zeros, which torch's does not."""
    return (x >> shift) & ((1 << (64 - shift)) - 1)


@dataclass(frozen=True)
class _Offered:
    """Some items of some features."""

    feature: Int[Tensor, " n"]
    key: Int[Tensor, " n"]
    item: Int[Tensor, " n"]
    peak: Float[Tensor, " n"]
    levels: Int[Tensor, "n length"]


class Kept:
    """The `capacity` items with the largest keys for each feature, best first. Ties go to the earlier item.

    Items that may be good enough wait until there are many, so that the whole table is sorted rarely.

    Arguments:
    - `d_sae`: number of features.
    - `capacity`: items kept for each.
    - `length`: tokens of an item whose activations are kept.
    - `device`: where the table lies.
    """

    def __init__(self, d_sae: int, capacity: int, length: int, device: torch.device | str = "cpu") -> None:
        self.key: Int[Tensor, "d_sae kept"] = torch.full((d_sae, capacity), -1, dtype=torch.int32, device=device)
        self.item: Int[Tensor, "d_sae kept"] = torch.full((d_sae, capacity), -1, dtype=torch.int64, device=device)
        self.peak: Float[Tensor, "d_sae kept"] = torch.zeros(d_sae, capacity, device=device)
        self.levels: Int[Tensor, "d_sae kept length"] = torch.zeros(d_sae, capacity, length, dtype=torch.int8, device=device)
        self._pending: list[_Offered] = []
        self._waiting = 0
        self._most = max(_LEAST_PENDING, d_sae * capacity // 2)

    def offer(
        self,
        feature: Int[Tensor, " n"],
        key: Int[Tensor, " n"],
        item: Int[Tensor, " n"],
        peak: Float[Tensor, " n"],
        levels: Callable[[Int[Tensor, " some"]], Int[Tensor, "some length"]] | None = None,
    ) -> None:
        """Keeps those of some new items that are good enough; never one with key -1. `levels` gives the activations of some, by number."""
        good = torch.nonzero(key >= self.key[:, -1].clamp(min=0)[feature]).squeeze(1)
        shown = self.levels.new_zeros(len(good), 0) if levels is None else levels(good)
        self._take(_Offered(feature[good].long(), key[good], item[good], peak[good], shown))

    def merge(self, other: "Kept") -> None:
        """Keeps the best of both."""
        other.settle()
        feature, slot = torch.nonzero(other.item >= 0, as_tuple=True)
        device = self.key.device
        parts = (feature, other.key[feature, slot], other.item[feature, slot], other.peak[feature, slot], other.levels[feature, slot])
        self._take(_Offered(*(part.to(device) for part in parts)))

    def _take(self, offered: _Offered) -> None:
        self._pending.append(offered)
        self._waiting += len(offered.item)
        if self._waiting >= self._most:
            self.settle()

    def settle(self) -> None:
        """Sorts what waits into the table."""
        if not self._waiting:
            return
        capacity, length = self.levels.shape[1:]
        held = torch.nonzero(self.item.view(-1) >= 0).squeeze(1)
        key, item, peak = (table.view(-1)[held] for table in (self.key, self.item, self.peak))
        old = _Offered(held // capacity, key, item, peak, self.levels[:0, 0])
        every = [old, *self._pending]
        feature, key, item, peak = (torch.cat([getattr(part, name) for part in every]) for name in ("feature", "key", "item", "peak"))
        best, place = _ranked(feature, key, item, capacity, len(self.key), presorted=_ascending(every))
        for table, values, empty in ((self.key, key, -1), (self.item, item, -1), (self.peak, peak, 0)):
            table.fill_(empty).view(-1)[place] = values[best]
        if length:
            levels = torch.cat([part.levels for part in self._pending])
            kept = torch.zeros_like(self.levels).view(-1, length)
            stays = best < len(held)
            kept.index_copy_(0, place[stays], self.levels.view(-1, length).index_select(0, held[best[stays]]))
            kept.index_copy_(0, place[~stays], levels.index_select(0, best[~stays] - len(held)))
            self.levels = kept.view_as(self.levels)
        self._pending, self._waiting = [], 0

    def tensors(self) -> dict[str, Tensor]:
        """The table by name, for a file."""
        self.settle()
        return {"key": self.key, "item": self.item, "peak": self.peak, "levels": self.levels}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `tensors` gave."""
        self._pending, self._waiting = [], 0
        for name in self.tensors():
            setattr(self, name, tensors[name].to(self.key.device))

    def table(self, by_strength: bool) -> KeptTable:
        """What is kept, for the store; `by_strength` where keys are of `strongest`, not of `uniform`."""
        found = {name: tensor.cpu().numpy().copy() for name, tensor in self.tensors().items()}
        key = found["key"]
        shown = np.where(key < 0, np.float32(-np.inf), key.view(np.float32)) if by_strength else key / 2.0**31
        return KeptTable(key=shown.astype(np.float64), segment=found["item"], peak=found["peak"], levels=found["levels"])


def _ascending(parts: Sequence[_Offered]) -> bool:
    """Whether the items of each part come after those of the parts before, as in a pass in corpus order."""
    items = [part.item for part in parts if len(part.item)]
    bounds = [bound for part in items for bound in part.aminmax()]
    return len(items) < 2 or bool((torch.stack(bounds[1:-1:2]) < torch.stack(bounds[2::2])).all())


def _ranked(
    feature: Int[Tensor, " n"], key: Int[Tensor, " n"], item: Int[Tensor, " n"], capacity: int, d_sae: int, presorted: bool
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " kept"]]:
    """Numbers of the offers that are kept, and where each one goes in a table of `capacity` columns.

    Arguments:
    - `presorted`: the offers of a feature that have the same key come in order of item already.
    """
    order = None if presorted else item.argsort(stable=True)
    code = (feature << 31) + (TOP - key.long())
    code, ranked = (code if order is None else code[order]).sort(stable=True)
    owner = code >> 31
    first = torch.searchsorted(owner, torch.arange(d_sae, device=owner.device))
    rank = torch.arange(len(owner), device=owner.device) - first[owner]
    good = torch.nonzero(rank < capacity).squeeze(1)
    best = ranked[good]
    return best if order is None else order[best], owner[good] * capacity + rank[good]
