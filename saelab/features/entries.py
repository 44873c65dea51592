"""Entries: the active codes of some tokens, turned round so that those of one feature lie together.

Every token has one *place* in the corpus: `window * positions + position`, where `positions` is the context in whole segments. So
`place // width` is the token's segment, and a feature's entries in order of place are its segments one after another.
"""

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.features.examples import LEVELS, Grid


class Entries:
    """The active codes of some rows, sorted by feature, then place.

    Arguments:
    - `grid`: where the segments lie.
    - `feature`, `value`: the codes; slots with value 0 are not used.
    - `place`: place of each row, whole windows, in any order.
    """

    def __init__(self, grid: Grid, feature: Int[Tensor, "row slot"], value: Float[Tensor, "row slot"], place: Int[Tensor, " row"]) -> None:
        self.grid = grid
        place, order = place.sort()
        used = value.index_select(0, order).reshape(-1)
        slots = torch.nonzero(used).squeeze(1)
        owner = feature.index_select(0, order).reshape(-1).index_select(0, slots).int()
        self.feature: Int[Tensor, " active"]
        self.feature, turned = owner.sort(stable=True)
        slots = slots.index_select(0, turned)
        self.value: Float[Tensor, " active"] = used.index_select(0, slots).float()
        self.place: Int[Tensor, " active"] = place.index_select(0, slots // max(1, value.shape[1]))

    def __len__(self) -> int:
        return len(self.feature)

    @cached_property
    def pairs(self) -> "Pairs":
        """The pairs of a feature and a segment in which it fires."""
        return Pairs(self)


class Pairs:
    """The pairs of a feature and a segment in which it fires, sorted by both.

    Arguments:
    - `entries`: the active codes.
    """

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        width = entries.grid.width
        segment = entries.place // width
        new = torch.ones_like(segment, dtype=torch.bool)
        new[1:] = (segment[1:] != segment[:-1]) | (entries.feature[1:] != entries.feature[:-1])
        starts = torch.nonzero(new).squeeze(1)
        self.feature: Int[Tensor, " pair"] = entries.feature[starts]
        self.segment: Int[Tensor, " pair"] = segment[starts]
        self._bounds = torch.cat([starts, starts.new_tensor([len(entries)])])
        number = new.cumsum(0).sub_(1)
        self.max: Float[Tensor, " pair"] = _largest(entries.value, number, len(starts))
        self.min: Float[Tensor, " pair"] = -_largest(-entries.value, number, len(starts))
        self.peak: Float[Tensor, " pair"] = torch.where(self.max >= -self.min, self.max, self.min)

    def levels(self, some: Int[Tensor, " some"]) -> Int[Tensor, "some length"]:
        """Activations of each pair's segment and its left context relative to its peak, in steps of 1/127; active tokens never become 0."""
        grid, entries = self._entries.grid, self._entries
        begin = self.segment[some] * grid.width
        first = begin - grid.before
        reach = torch.maximum(first, begin // grid.positions * grid.positions)  # left context ends with the window
        low = self._bounds[self._from(some, reach)]
        counts = self._bounds[some + 1] - low
        pair = torch.repeat_interleave(counts)
        entry = torch.arange(len(pair), device=pair.device) + (low - counts.cumsum(0) + counts)[pair]
        exact = entries.value[entry] / self.peak[some].abs()[pair] * LEVELS
        rounded = exact.sign() * exact.abs().round_().clamp_(1, LEVELS)
        column = entries.place[entry]
        column = torch.where(column >= reach[pair], column - first[pair], grid.length)
        levels = torch.zeros(len(some), grid.length + 1, dtype=torch.int8, device=pair.device)  # the last column is for what lies before
        levels.view(-1)[pair * (grid.length + 1) + column] = rounded.to(torch.int8)
        return levels[:, :-1]

    def _from(self, some: Int[Tensor, " some"], reach: Int[Tensor, " some"]) -> Int[Tensor, " some"]:
        """For each pair the first one of its feature whose segment reaches into its left context; itself where there is none."""
        found = some
        for _ in range(-(-self._entries.grid.before // self._entries.grid.width)):
            last = (found - 1).clamp_(min=0)
            near = (self.feature[last] == self.feature[some]) & ((self.segment[last] + 1) * self._entries.grid.width > reach)
            found = torch.where(near, last, found)
        return found


def _largest(values: Float[Tensor, " n"], part: Int[Tensor, " n"], num_parts: int) -> Float[Tensor, " part"]:
    """Largest value (0 at least) of each of many short parts. `reduced` would spend a whole block of a GPU's threads on each.

    The bits of a positive float32 grow with it, so whole numbers are compared: that is one instruction on a GPU, in any order.
    """
    found = torch.zeros(num_parts, dtype=torch.int32, device=values.device)
    return found.scatter_reduce_(0, part, values.clamp(min=0).view(torch.int32), "amax").view(torch.float32)


def reduced(values: Float[Tensor, " n"], how: str, bounds: Int[Tensor, " edge"]) -> Float[Tensor, " part"]:
    """Sum, largest (0 at least) or smallest (0 at most) of each part of some values; the same at every call, on a GPU too."""
    return torch.segment_reduce(values, how, offsets=bounds, unsafe=True, initial=0)
