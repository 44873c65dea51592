"""Negatives: windows of the shared pool in which a feature is verified to be silent, found in four ways.

- `random`: any.
- `same_token`: the tokens on which the feature peaks are there, and yet it is silent.
- `near_meaning`: nearest in meaning, by the pool's vectors, to the members in which it fires; where there are vectors.
- `near_miss`: in its place elsewhere: most words in common with the windows in which it fires (overlap of words weighted by their rarity).
- `neighbour`: a feature with a close decoder direction fires, this one does not.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from saelab.features.examples import SPLITS
from saelab.features.pool import Pool

KINDS = ("random", "same_token", "near_meaning", "near_miss", "neighbour")
_QUOTAS = 4
_PEAK_FORMS = 4
_QUERY_WORDS = 64


@dataclass(frozen=True)
class Negatives:
    """Members of the pool in which a feature is silent."""

    member: Int[np.ndarray, " n"]
    """The members of the pool."""
    kinds: tuple[str, ...]
    """How each was found."""


class NegativeFinder:
    """Finds negatives for any feature.

    Arguments:
    - `pool`: segments with the features that fire in them.
    - `usable`: which members may be used.
    - `split`: split of each member.
    - `folded`: folded tokens of each member, -1 where none counts.
    - `neighbours`: closest features of every feature.
    - `is_word`: which folded forms are words.
    - `seed`: seed of the choice.
    """

    def __init__(
        self,
        pool: Pool,
        usable: Bool[np.ndarray, " pool"],
        split: Int[np.ndarray, " pool"],
        folded: Int[np.ndarray, "pool pos"],
        neighbours: Int[np.ndarray, "d_sae k"],
        is_word: Bool[np.ndarray, " fold"],
        seed: int,
    ) -> None:
        self._pool = pool
        self._allowed = [usable & (split == number) for number in range(len(SPLITS))]
        self._neighbours = neighbours
        self._seed = seed
        member, place = np.nonzero(folded >= 0)
        pairs = np.unique(folded[member, place].astype(np.int64) * len(folded) + member)
        self._posting_member = pairs % max(1, len(folded))
        self._posting_begin = np.searchsorted(pairs // max(1, len(folded)), np.arange(len(is_word) + 1))
        frequency = np.diff(self._posting_begin)
        self._rarity = np.where(is_word & (frequency > 0), np.log(max(1, len(folded)) / np.maximum(1, frequency)), 0.0)

    def find(
        self, feature: int, split: int, count: int, peaks: Int[np.ndarray, " window"], bags: Int[np.ndarray, "window pos"]
    ) -> Negatives:
        """About `count` negatives of a feature in one split, the four kinds alike where there are enough; random ones fill the gaps.

        Arguments:
        - `peaks`: folded tokens on which the feature's windows peak.
        - `bags`: folded tokens of these windows, -1 where none counts.
        """
        random = np.random.default_rng((self._seed, feature, split))
        free = self._allowed[split].copy()
        free[self._pool.fires(feature)] = False
        chosen: list[np.ndarray] = []
        kinds: list[str] = []
        quota = count // _QUOTAS
        near = self._meaning(feature, split)
        for kind in ("same_token", "near_miss" if near is None else "near_meaning", "neighbour", "random"):
            wanted = count - len(kinds) if kind == "random" else quota
            if near is not None and kind == "near_meaning":
                members = self._nearest(near, free, wanted)
            else:
                members = self._candidates(kind, feature, free, peaks, bags, wanted, random)
            free[members] = False
            chosen.append(members)
            kinds += [kind] * len(members)
        return Negatives(member=np.concatenate(chosen).astype(np.int64), kinds=tuple(kinds))

    def _candidates(
        self, kind: str, feature: int, free: np.ndarray, peaks: np.ndarray, bags: np.ndarray, wanted: int, random: np.random.Generator
    ) -> Int[np.ndarray, " some"]:
        if kind == "near_miss":
            return self._alike(free, bags, wanted)
        if kind == "same_token":
            forms, counts = np.unique(peaks[peaks >= 0], return_counts=True)
            pool = self._with(forms[np.argsort(-counts, kind="stable")[:_PEAK_FORMS]])
        elif kind == "neighbour":
            near = self._neighbours[feature] if len(self._neighbours) else np.zeros(0, np.int64)
            pool = np.concatenate([np.zeros(0, np.int64), *(self._pool.fires(int(other)) for other in near)])
        else:
            pool = np.arange(len(free))
        pool = np.unique(pool[free[pool]])
        return pool[random.permutation(len(pool))[:wanted]]

    def _meaning(self, feature: int, split: int) -> Float[np.ndarray, " d"] | None:
        """Mean vector of the members of a split in which a feature fires; none without any, or without vectors."""
        firing = self._pool.fires(feature)
        firing = firing[self._allowed[split][firing]]
        return None if self._pool.vectors is None or not len(firing) else self._pool.vectors[firing].mean(0)

    def _nearest(self, near: Float[np.ndarray, " d"], free: Bool[np.ndarray, " pool"], wanted: int) -> Int[np.ndarray, " some"]:
        assert self._pool.vectors is not None
        members = np.flatnonzero(free)
        return members[np.argsort(-(self._pool.vectors[members] @ near), kind="stable")[:wanted]]

    def _with(self, forms: Int[np.ndarray, " some"]) -> Int[np.ndarray, " n"]:
        begin = self._posting_begin
        return np.concatenate([np.zeros(0, np.int64), *(self._posting_member[begin[form] : begin[form + 1]] for form in forms)])

    def _alike(self, free: Bool[np.ndarray, " pool"], bags: Int[np.ndarray, "window pos"], wanted: int) -> Int[np.ndarray, " some"]:
        """The members with the most words in common with the windows; a word weighs by its rarity and by how many windows have it."""
        rows, columns = np.nonzero(bags >= 0)
        pairs = np.unique(bags[rows, columns].astype(np.int64) * len(bags) + rows)
        forms, counts = np.unique(pairs // max(1, len(bags)), return_counts=True)
        weight = counts * self._rarity[forms]
        best = np.argsort(-weight, kind="stable")[:_QUERY_WORDS]
        sizes = self._posting_begin[forms[best] + 1] - self._posting_begin[forms[best]]
        overlap = np.bincount(self._with(forms[best]), np.repeat(weight[best], sizes), minlength=len(free))
        overlap[~free] = 0
        order = np.argsort(-overlap, kind="stable")[:wanted]
        return order[overlap[order] > 0]
