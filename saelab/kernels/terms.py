"""Gradients of weights as what they are made of: sums over the entries of codes of a value times a row.

An optimiser that steps straight from these terms (`saelab.kernels.adam`) lets a weight collect them; then the backward pass leaves them
there and no gradient of the weight's size is ever written.
"""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from saelab.kernels.peers import NO_PEERS, Peers
from saelab.kernels.segments import Segments, prepare_segments, segments_of
from saelab.kernels.streams import aside


class Term(NamedTuple):
    """A part of the gradient of a weight: for feature f the sum over its entries of value · x[row]."""

    values: Float[Tensor, " n"]
    """The value of the entry at each place of the segments."""
    x: Float[Tensor, "row width"]
    """The rows that they are multiplied with, in bfloat16."""
    segments: Segments
    """The entries in the order of their features."""
    sums: Float[Tensor, " d_sae"]
    """For each feature the sum of its entries' values, each times the dot product of its row and the weight's where that is known."""
    reach: Float[Tensor, " d_sae"]
    """For each feature a bound on the norm of its part of the gradient."""


def collect(weight: Tensor, peers: Peers = NO_PEERS) -> None:
    """From now on the weight collects terms. Whoever asks for it takes them away after each backward pass, with `taken`.

    Arguments:
    - `peers`: the processes that train the same weights, which are told in the forward pass what terms will be of.
    """
    setattr(weight, "terms", [])  # noqa: B010 - no field of a tensor
    setattr(weight, "peers", peers)  # noqa: B010


def collected(weight: Tensor) -> list[Term] | None:
    """The terms that a weight has collected; none where it does not collect any."""
    return getattr(weight, "terms", None)


def tell_rows(weight: Tensor, x: Tensor) -> None:
    """Tells other processes the rows that a term to come sums, beside what comes next."""
    peers: Peers = getattr(weight, "peers")  # noqa: B009 - no field of a tensor
    if peers.rows > 1:
        with aside(x.device, "others"):
            peers.tell_rows(x)


def prepare(weight: Tensor, x: Tensor, indices: Int[Tensor, "*codes"], starts: Int[Tensor, " row_starts"] | None) -> None:
    """Has a GPU put the entries of a term to come in order, beside what it is asked to do next; they may be used after `rejoin`."""
    peers: Peers = getattr(weight, "peers")  # noqa: B009 - no field of a tensor
    if peers.rows == 1:
        prepare_segments(indices, starts, len(weight))
        return
    tell_rows(weight, x)
    with aside(x.device, "order"):
        segments = segments_of(indices, starts, len(weight))
        with aside(x.device, "others"):
            peers.tell_entries(segments, len(x))


def taken(weight: Tensor) -> list[Term]:
    """The terms that a weight has collected, which it forgets."""
    terms = collected(weight) or []
    found = list(terms)
    terms.clear()
    return found
