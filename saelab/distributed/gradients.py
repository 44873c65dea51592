"""Gradients of the whole batch from those of each rank's rows.

A weight's gradient is either a dense tensor, which is averaged by an all-reduce, or a list of terms: it is then the sum over a term's
entries of value times row, and the ranks exchange the terms. These are smaller by far where a batch touches few features: the rows and
codes of a batch against all weights (docs/scaling.md has the volumes).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed import ProcessGroup

from saelab.distributed.collectives import gathered


class Term(NamedTuple):
    """Part of a weight's gradient: with row t and slot j, `values[t, j] * rows[t]` is added to the row `indices[t, j]` of the weight."""

    values: Float[Tensor, "row k"]
    """How much; 0 in slots that are not used."""
    indices: Int[Tensor, "row k"]
    """To which feature."""
    rows: Float[Tensor, "row width"]
    """Of what."""


def gather_terms(terms: Sequence[Term], group: ProcessGroup) -> list[Term]:
    """The terms of all ranks, on each of them, in the order of the ranks: of the mean of their gradients. Each has as many rows.

    Tensors that several terms share, such as the indices of both weights of a dictionary, are sent once.
    """
    ranks = dist.get_world_size(group)
    sent: dict[int, Tensor] = {}

    def everyone(mine: Tensor) -> Tensor:
        if id(mine) not in sent:
            sent[id(mine)] = gathered(mine, group)
        return sent[id(mine)]

    return [Term(everyone(values) / ranks, everyone(indices), everyone(rows)) for values, indices, rows in terms]


def reduce_gradients(gradients: Iterable[Tensor], group: ProcessGroup) -> None:
    """Replaces dense gradients by their means over the ranks, all of them at once."""
    ranks = dist.get_world_size(group)
    works = [dist.all_reduce(gradient.div_(ranks), group=group, async_op=True) for gradient in gradients]
    for work in works:
        assert work is not None, "every rank is in the group"
        work.wait()


def clip_gradients(divided: Sequence[Tensor], shared: Sequence[Tensor], most: float, group: ProcessGroup) -> None:
    """Scales gradients so that their norm is `most` at most: of weights divided among the ranks, and of those that all have."""
    squares = torch.stack([gradient.square().sum() for gradient in divided]).sum()
    dist.all_reduce(squares, group=group)
    norm = (squares + sum(gradient.square().sum() for gradient in shared)).sqrt()
    factor = (most / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
    for gradient in (*divided, *shared):
        gradient.mul_(factor)
