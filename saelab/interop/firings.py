"""Where features fired, as other projects keep it: sequences of tokens, and sparse activations on them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class Firings:
    """Activations of features on sequences of tokens."""

    sequences: tuple[Int[np.ndarray, " pos"], ...]
    """Token ids of each sequence."""
    sequence: Int[np.ndarray, " active"]
    """Which sequence each activation is on."""
    position: Int[np.ndarray, " active"]
    """At which token of it."""
    feature: Int[np.ndarray, " active"]
    """Of which feature."""
    value: Float[np.ndarray, " active"]
    """How strong; never 0."""
