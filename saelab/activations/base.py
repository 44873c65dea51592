"""Chunks: activations with the place that each of them comes from."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Some activations of one hook, in corpus order: whole windows, rows of one window together and by position.

    Only rows that count are in it: never the first position of a window, never a special token.
    """

    x: Float[Tensor, "row d_in"]
    """The activations, in the dtype of the store."""
    window: Int[Tensor, " row"]
    """Number of the window in the corpus."""
    position: Int[Tensor, " row"]
    """Position in the window."""
