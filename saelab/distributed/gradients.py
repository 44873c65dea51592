"""Gradients of the whole batch from those of each rank's rows.

A weight's gradient is either a dense tensor, which is averaged by an all-reduce, or a list of terms (`saelab.kernels.terms`): sums over the
entries of codes of a value times a row. Then the ranks exchange the terms, all of them and what else there is in one message. It is smaller
by far than gradients where a batch touches few features: rows and codes of a batch against all weights (docs/scaling.md has the volumes).
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from saelab.distributed.collectives import gathered_together
from saelab.kernels.segments import Segments
from saelab.kernels.terms import Term, collected, taken


def reduce_gradients(weights: Sequence[nn.Parameter], group: ProcessGroup) -> None:
    """Replaces the gradients of weights, terms or dense, by their means over the ranks. All ranks have terms for the same weights."""
    dense = [weight.grad for weight in weights if weight.grad is not None]
    terms = [taken(weight) for weight in weights]
    if any(terms):
        exchanged = iter(_exchanged([term for some in terms for term in some], dense, group))
        for weight, some in zip(weights, terms, strict=True):
            if (known := collected(weight)) is not None:
                known.extend(next(exchanged) for _ in some)
        return
    works = [dist.all_reduce(gradient.div_(dist.get_world_size(group)), group=group, async_op=True) for gradient in dense]
    for work in works:
        assert work is not None, "every rank is in the group"
        work.wait()


def _exchanged(terms: Sequence[Term], dense: Sequence[Tensor], group: ProcessGroup) -> list[Term]:
    """The terms of all ranks, on each of them, in the order of the ranks: of the mean of their gradients; dense ones become their mean.

    Each rank has as many rows, and may have any number of entries. What several terms share, such as the entries of both weights, is sent
    once, and sorted once.
    """
    ranks = dist.get_world_size(group)
    size = _most_entries(terms, group)
    entries = {id(term.segments): _entries(term.segments, size) for term in terms}
    values = [_filled(term.values, size, 0) for term in terms]
    numbers = [part for term in terms for part in (term.x, term.sums, term.reach)]
    found = iter(gathered_together([*values, *numbers, *dense, *(part for pair in entries.values() for part in pair)], group))
    values = [next(found) / ranks for _ in terms]
    numbers = [(next(found), next(found), next(found)) for _ in terms]
    for gradient in dense:
        gradient.copy_(next(found).mean(0))
    of = {id(term.segments): term for term in terms}
    segments = {key: _joined(next(found), next(found), of[key]) for key in entries}
    everyones = [segments[id(term.segments)] for term in terms]
    return [
        Term(value.flatten()[places.order], x.flatten(0, 1), places, sums.mean(0), reach.mean(0))
        for places, value, (x, sums, reach) in zip(everyones, values, numbers, strict=True)
    ]


def _most_entries(terms: Sequence[Term], group: ProcessGroup) -> int:
    """The most entries that a rank has in a term; only where rows have unlike numbers of them are the ranks asked, which is to wait."""
    most = max(len(term.values) for term in terms)
    if all(term.segments.even for term in terms):
        return most
    everywhere = torch.tensor(most, device=terms[0].x.device)
    dist.all_reduce(everywhere, dist.ReduceOp.MAX, group=group)
    return int(everywhere)


def _entries(segments: Segments, size: int) -> tuple[Tensor, Tensor]:
    """Feature and row of each entry; those that fill up are of a feature behind the last."""
    return _filled(segments.features, size, len(segments.bounds) - 1), _filled(segments.rows.int(), size, 0)


def _filled(entries: Tensor, size: int, value: int) -> Tensor:
    return functional.pad(entries, (0, size - len(entries)), value=value)


def _joined(features: Tensor, rows: Tensor, term: Term) -> Segments:
    """The segments of all ranks' entries, whose rows are numbered through."""
    first = len(term.x) * torch.arange(len(rows), device=rows.device)
    return Segments(features.flatten(), (rows + first[:, None]).flatten(), len(term.segments.bounds) - 1)
