"""Gradients of the whole batch from those of each rank's rows.

A weight's gradient is either a dense tensor, which is averaged by an all-reduce, or a list of terms (`saelab.kernels.terms`): sums over the
entries of codes of a value times a row. Then the ranks exchange the terms. They are smaller by far than gradients where a batch touches few
features: rows and codes of a batch against all weights (docs/scaling.md has the volumes). What is known early, which entries there are and
the rows that were read, is told beside the forward pass; errors and values follow the backward pass, and with them the gradients of biases.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from saelab.distributed.collectives import gathered
from saelab.kernels.segments import Segments
from saelab.kernels.streams import rejoin
from saelab.kernels.terms import Term, collected, taken


def average(gradients: Sequence[Tensor], group: ProcessGroup) -> None:
    """Makes dense gradients their means over the ranks, in place."""
    works = [dist.all_reduce(gradient.div_(dist.get_world_size(group)), group=group, async_op=True) for gradient in gradients]
    for work in works:
        assert work is not None, "every rank is in the group"
        work.wait()


class Exchange:
    """What the ranks of a group tell each other in a step. Each has as many rows, and may have any number of entries."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group, self._ranks, self._rank = group, dist.get_world_size(group), dist.get_rank(group)
        self._segments: dict[int, tuple[Segments, Segments]] = {}
        self._rows: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def tell_rows(self, x: Float[Tensor, "row width"]) -> None:
        """Tells the rows of a term to come; `reduce` tells what was not told before."""
        self._gathered(x)

    def tell_entries(self, segments: Segments, rows: int) -> None:
        """Tells its entries, where all ranks have as many."""
        if segments.even:
            _ = self._merged(segments, rows, len(segments.features)).owner

    def reduce(self, weights: Sequence[nn.Parameter]) -> None:
        """Replaces the gradients of weights, terms or dense, by their means over the ranks. All ranks have terms for the same weights."""
        dense = [weight for weight in weights if weight.grad is not None]
        terms = [taken(weight) for weight in weights]
        if not any(terms):
            average([weight.grad for weight in dense if weight.grad is not None], self._group)
            return
        rejoin(weights[0].device, "others")
        exchanged = iter(self._exchanged([term for some in terms for term in some], dense))
        for weight, some in zip(weights, terms, strict=True):
            if (known := collected(weight)) is not None:
                known.extend(next(exchanged) for _ in some)
        self._segments.clear()
        self._rows.clear()

    def _exchanged(self, terms: Sequence[Term], dense: Sequence[nn.Parameter]) -> list[Term]:
        """The terms of all ranks, in the order of the ranks: of the mean of their gradients; dense ones become their mean."""
        sizes = self._sizes(terms)
        segments = [self._merged(term.segments, len(term.x), sizes[id(term.segments)]) for term in terms]
        rows = [self._gathered(term.x) for term in terms]
        values = [_filled(term.values, sizes[id(term.segments)], 0) for term in terms]
        gradients = [weight.grad.flatten() for weight in dense if weight.grad is not None]
        others = [*(part for term in terms for part in (term.sums, term.reach)), *gradients]
        everyones = gathered(torch.cat([*values, *others])[None], self._group)
        *found, rest = everyones.split([*map(len, values), sum(map(len, others))], dim=1)
        means = iter(rest.mean(0).split([len(part) for part in others]))
        made = [
            Term((value / self._ranks).flatten()[places.order], x, places, next(means), next(means))
            for value, x, places in zip(found, rows, segments, strict=True)
        ]
        for weight, mean in zip(dense, means, strict=True):
            weight.grad = mean.view_as(weight)
        return made

    def _sizes(self, terms: Sequence[Term]) -> Mapping[int, int]:
        """The most entries that a rank has of some segments; only where rows have unlike numbers of them are the ranks asked: a wait."""
        all_segments = {id(term.segments): term.segments for term in terms}
        sizes = {key: len(segments.features) for key, segments in all_segments.items()}
        uneven = [key for key, segments in all_segments.items() if not segments.even]
        if uneven:
            most = torch.tensor([sizes[key] for key in uneven], device=terms[0].x.device)
            dist.all_reduce(most, dist.ReduceOp.MAX, group=self._group)
            sizes |= dict(zip(uneven, most.tolist(), strict=True))
        return sizes

    def _merged(self, segments: Segments, rows: int, size: int) -> Segments:
        """The segments of all ranks' entries, whose rows are numbered through. Those that fill up are of a feature behind the last."""
        if id(segments) not in self._segments:
            features = _filled(segments.features.int(), size, len(segments.bounds) - 1)
            numbers = _filled((segments.rows + self._rank * rows).int(), size, 0)
            everyones = gathered(torch.cat([features, numbers, segments.bounds.int()])[None], self._group)
            found = Segments.merged(*everyones.split([size, size, len(segments.bounds)], dim=1))
            self._segments[id(segments)] = segments, found
        return self._segments[id(segments)][1]

    def _gathered(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "all_rows width"]:
        place = x.data_ptr(), x.nbytes
        if place not in self._rows:
            self._rows[place] = x, gathered(x, self._group)
        return self._rows[place][1]


def _filled(entries: Float[Tensor, " n"] | Int[Tensor, " n"], size: int, value: int) -> Tensor:
    return entries if len(entries) == size else functional.pad(entries, (0, size - len(entries)), value=value)
