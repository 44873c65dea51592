"""The largest of many values of which every rank has some: exact, and alike on all ranks, ties included.

Row by row (TopK): each rank sends its k best candidates of a row to the one that decides on that row, and gets back which of them are
among the k best of all. That are 5 k bytes a row and rank, however many ranks there are; to gather all candidates everywhere would be that
times their number. Of equal values the lowest feature wins.

Over a whole batch (BatchTopK): a radix select. In three rounds the ranks add up how many of their values begin with which bits, which
gives the bits of the smallest value that is kept, one digit after the other. Of equal values the lowest rank's win, and there the first.
"""

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from saelab.distributed.collectives import gathered

_DIGITS = ((21, 10), (10, 11), (0, 10))
"""Shift and bits of each digit of a float that is not negative; its bits are ordered as it is."""


def chosen_of_rows(size: Float[Tensor, "row n"], k: int, group: ProcessGroup) -> Bool[Tensor, "row n"]:
    """Which of a rank's candidates are among the k largest of all ranks' in their row.

    Arguments:
    - `size`: not negative; k at most, the largest that the rank has, by rising number of feature. Rows are a multiple of the ranks.
    - `group`: the ranks, in the order of their features.
    """
    ranks, (rows, width) = dist.get_world_size(group), size.shape
    mine = functional.pad(size, (0, k - width), value=-1.0).contiguous()
    theirs = torch.empty_like(mine)
    dist.all_to_all_single(theirs, mine, group=group)
    candidates = theirs.view(ranks, rows // ranks, k).transpose(0, 1).reshape(rows // ranks, ranks * k)
    best = candidates.sort(dim=1, descending=True, stable=True).indices[:, :k]
    chosen = torch.zeros_like(candidates, dtype=torch.uint8).scatter_(1, best, 1)
    answer = chosen.view(rows // ranks, ranks, k).transpose(0, 1).reshape(rows, k).contiguous()
    back = torch.empty_like(answer)
    dist.all_to_all_single(back, answer, group=group)
    return back[:, :width].bool()


def chosen_of_all(values: Float[Tensor, " n"], count: int, group: ProcessGroup) -> Bool[Tensor, " n"]:
    """Which of a rank's values are among the `count` largest of all ranks', of which there are so many at least. None is negative."""
    keys = (values.float() + 0.0).view(torch.int32)  # the sum makes -0 a 0
    alive, least = torch.ones_like(keys, dtype=torch.bool), torch.zeros_like(keys[:0].sum(), dtype=torch.int32)
    left = torch.full((), count, device=keys.device)
    for shift, bits in _DIGITS:
        digit = (keys >> shift) & (2**bits - 1)
        counts = torch.zeros(2**bits + 1, dtype=torch.int64, device=keys.device).index_add_(0, digit, alive.long())
        dist.all_reduce(counts, group=group)
        reaching = counts.flip(0).cumsum(0).flip(0)  # values with this digit or a larger one
        edge = (reaching >= left).sum() - 1
        left = left - reaching[edge + 1]
        alive &= digit == edge
        least = least | (edge << shift)
    return (keys > least) | (alive & (alive.cumsum(0) <= left - _before(alive.sum(), group)))


def _before(number: Tensor, group: ProcessGroup) -> Tensor:
    """The sum of a number over the ranks before this one."""
    return gathered(number.view(1), group)[: dist.get_rank(group)].sum()
