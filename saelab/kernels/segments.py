"""Entries of sparse codes in the order of their features: what the gradients of both weights and of the bias sum over.

A feature that is active on thousands of rows would hold up a GPU program that walks its entries alone, so features with more than `PIECE`
entries are summed in pieces of that size first. Every order of summation is fixed: results repeat bit for bit.
"""

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Self

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from saelab.kernels.streams import aside

PIECE = 32
"""Entries of a feature that a GPU sums in one go."""


class Segments:
    """The entries of some codes, feature after feature, those of a feature in order; nothing here waits for the device.

    Arguments:
    - `features`: the feature of each entry; `d_sae` for entries of none.
    - `rows`: the row of each entry; none where each of them has `k`.
    - `d_sae`: number of features.
    """

    def __init__(self, features: Int[Tensor, " n"], rows: Int[Tensor, " n"] | None, d_sae: int, k: int = 1) -> None:
        short = torch.int16 if d_sae < 2**15 else torch.int32  # a radix sort takes as long as its keys
        self.features, self.order = features.to(short).sort(stable=True)
        """The feature at each place, and the number of its entry."""
        self.bounds = torch.searchsorted(self.features, torch.arange(d_sae + 1, device=features.device, dtype=short))
        """Where each feature begins; one more than there are features."""
        self.rows = self.order // k if rows is None else rows[self.order]
        """The row of the entry at each place."""
        self.even = rows is None
        """Whether all rows have as many entries."""
        self._joins: dict[tuple[int, ...], tuple[Sequence[Segments], Segments]] = {}

    def moved(self, rows: Int[Tensor, " n"]) -> Self:
        """The same entries in other rows: the row of each entry."""
        other = copy(self)  # with all that is known of their order
        other.rows, other.even, other._joins = rows[self.order], False, {}
        return other

    def joined(self, others: Sequence[Self], firsts: Sequence[int]) -> "Segments":
        """These entries and those of others, whose rows are numbered from somewhere on; made once, since two weights have the same."""
        key = tuple(map(id, others))
        if key not in self._joins:
            features = torch.cat([self.features, *(other.features for other in others)])
            rows = torch.cat([self.rows, *(other.rows + first for other, first in zip(others, firsts, strict=True))])
            self._joins[key] = others, Segments(features, rows, len(self.bounds) - 1)
        return self._joins[key][1]

    @classmethod
    def merged(cls, features: Int[Tensor, "list n"], rows: Int[Tensor, "list n"], bounds: Int[Tensor, "list feature_starts"]) -> Self:
        """Lists of entries, each in the order of its features, as one; those of a feature are in the order of the lists.

        Nothing is sorted: an entry moves by what other lists have of lower features, and lists before its own of the same one.
        """
        size, found = features.shape[1], cls.__new__(cls)
        starts, counts = bounds, functional.pad(bounds, (0, 1), value=size).diff()  # the last are entries of no feature
        moved = starts.sum(0) - starts + counts.cumsum(0) - counts
        number = torch.arange(features.numel(), device=features.device)
        place = number[:size] + moved.gather(1, features.long())
        found.order = torch.empty_like(number).index_put_((place.flatten(),), number)
        found.features, found.rows = features.flatten()[found.order], rows.flatten()[found.order]
        found.bounds, found.even, found._joins = bounds.sum(0), False, {}
        return found

    @cached_property
    def pieces(self) -> Int[Tensor, " feature_starts"]:
        """Up to each feature, the number of pieces of those that have more than `PIECE` entries."""
        count = self.bounds.diff()
        return functional.pad(torch.where(count > PIECE, (count + PIECE - 1) // PIECE, 0).cumsum(0), (1, 0))

    @cached_property
    def owner(self) -> Int[Tensor, " pieces"]:
        """The feature that each piece is of; the number of features for those that are not needed."""
        most = 2 * len(self.order) // PIECE  # a feature with n > PIECE entries has fewer than 2 n / PIECE of them
        return torch.searchsorted(self.pieces, torch.arange(most, device=self.pieces.device), right=True) - 1


def segments_of(indices: Int[Tensor, "*codes"], starts: Int[Tensor, " row_starts"] | None, d_sae: int) -> Segments:
    """The segments of codes, made once: encoder and decoder have the same. Where they are cut into other rows, the order is the same."""
    known = getattr(indices, "segments", None)
    if known is None or known[0] != (indices._version, d_sae):
        rows = None if starts is None else rows_of(starts, len(indices))
        found = Segments(indices.reshape(-1), rows, d_sae, indices.shape[-1])
        keep_segments(indices, starts, d_sae, found)
        return found
    _, cut, segments = known
    return segments if starts is cut or starts is None else segments.moved(rows_of(starts, len(indices)))


def keep_segments(indices: Int[Tensor, "*codes"], starts: Int[Tensor, " row_starts"] | None, d_sae: int, segments: Segments) -> None:
    """Says that these are the segments of codes with those indices, cut into those rows."""
    setattr(indices, "segments", ((indices._version, d_sae), starts, segments))  # noqa: B010 - no field of a tensor


def prepare_segments(
    indices: Int[Tensor, "*codes"], starts: Int[Tensor, " row_starts"] | None, d_sae: int, rows: Int[Tensor, " n"] | None = None
) -> None:
    """Has a GPU make the segments beside what it is asked to do next; they may be used after `rejoin`.

    Arguments:
    - `rows`: the row of each entry of flat codes, where it is known.
    """
    with aside(indices.device, "order"):
        if rows is not None:
            keep_segments(indices, starts, d_sae, Segments(indices, rows, d_sae))
        _ = segments_of(indices, starts, d_sae).owner


def rows_of(starts: Int[Tensor, " row_starts"], entries: int) -> Int[Tensor, " n"]:
    """The row of each entry of flat codes."""
    return torch.arange(len(starts) - 1, device=starts.device).repeat_interleave(starts.diff(), output_size=entries)
