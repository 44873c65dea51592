"""Token tables: on which tokens a feature fires, and which tokens come before and after these."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from saelab.features.sketch import Collected


@dataclass(frozen=True)
class TokenTable:
    """Tokens of every feature with their counts in a uniform sample of its activations, the most frequent first.

    Feature f has the rows from `begin[f]` to `begin[f + 1]`. Where it fires at most as often as the sample has room, counts and sums are
    exact; elsewhere `count[row] / size[f]` estimates the token's share.
    """

    begin: Int[np.ndarray, " edge"]
    """Where each feature's rows begin, and where the last one's end."""
    token: Int[np.ndarray, " row"]
    """Id of the token; -1 for the edge of a window."""
    count: Int[np.ndarray, " row"]
    """How often it is in the sample."""
    total: Float[np.ndarray, " row"]
    """Sum of the feature's activations there."""
    size: Int[np.ndarray, " d_sae"]
    """Activations in each feature's sample."""
    exact: np.ndarray
    """Whether a feature's sample holds all of its activations (bool)."""

    def of(self, feature: int) -> list[tuple[int, int, float]]:
        """Token, count and sum of one feature, the most frequent first."""
        rows = slice(int(self.begin[feature]), int(self.begin[feature + 1]))
        return list(zip(self.token[rows].tolist(), self.count[rows].tolist(), self.total[rows].tolist(), strict=True))


def token_tables(collected: Collected, offsets: tuple[int, ...] = (0, -1, 1), rows: int = 16) -> dict[int, TokenTable]:
    """The tables of the tokens that features fire on (offset 0), of those before them (-1), after them (1), and so on.

    Arguments:
    - `rows`: tokens kept for each feature.
    """
    feature, slot = np.nonzero(collected.tokens.segment >= 0)
    place, activation = collected.tokens.segment[feature, slot], collected.tokens.peak[feature, slot]
    size = np.bincount(feature, minlength=collected.d_sae)
    grid = collected.grid
    found: dict[int, TokenTable] = {}
    for offset in offsets:
        inside = (place + offset) // grid.positions == place // grid.positions
        token = np.where(inside, grid.tokens_at(np.where(inside, place + offset, place)), -1)
        begin, *columns = _counted(feature, token, activation, collected.d_sae, rows)
        found[offset] = TokenTable(begin, *columns, size=size, exact=size == collected.statistics.count)
    return found


def _counted(
    feature: Int[np.ndarray, " n"], token: Int[np.ndarray, " n"], activation: Float[np.ndarray, " n"], d_sae: int, rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Begins, tokens, counts and sums of the most frequent tokens of each feature; ties go to the larger sum, then the smaller id."""
    ids = int(token.max(initial=0)) + 2
    cells, cell, count = np.unique(feature * ids + token + 1, return_inverse=True, return_counts=True)
    total = np.bincount(cell, activation, minlength=len(cells))
    owner, number = np.divmod(cells, ids)
    order = np.lexsort((number, -np.abs(total), -count, owner))
    begin = np.searchsorted(owner[order], np.arange(d_sae + 1))
    order = order[np.arange(len(order)) - begin[owner[order]] < rows]
    return np.searchsorted(owner[order], np.arange(d_sae + 1)), number[order] - 1, count[order], total[order]
