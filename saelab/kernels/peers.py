"""What a training step asks of the other processes that train the same weights; a process that is alone answers itself."""

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.kernels.segments import Segments


class Peers:
    """No other process. `saelab.distributed.group` has the same methods for many."""

    rows: int = 1
    """Parts that a batch is cut into, for as many ranks with other rows."""

    def tell_rows(self, x: Float[Tensor, "row width"]) -> None:
        """Tells the ranks with other rows, as soon as they are known, the rows that a gradient to come sums."""

    def tell_entries(self, segments: Segments, rows: int) -> None:
        """Tells them its entries, which are of so many rows."""

    def own(self, features: int) -> slice:
        """Those of so many features whose rows of a weight this rank steps, where its gradient came as terms; other ranks step the rest."""
        return slice(0, features)

    def share(self, tensor: Float[Tensor, "d_sae width"]) -> None:
        """Writes into a tensor, in its place, the rows that are other ranks' own."""

    def norm(self, parts: Float[Tensor, " part"], own: Float[Tensor, " own"] | None = None) -> Float[Tensor, ""]:
        """The norm of what has parts of these norms, on this rank and on those with other features.

        `own`: parts in place of which ranks with other rows have others.
        """
        return torch.linalg.vector_norm(parts if own is None else torch.cat([parts, own]))


NO_PEERS = Peers()
"""What a process that is alone needs."""
