"""The pool: a sample of segments, the same for every feature and every dictionary of a corpus, that negatives are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.features.entries import Pairs
from saelab.features.examples import Grid
from saelab.features.kept import uniform

_SHARES = (0.4, 0.2, 0.4)
"""Of the pool's segments, those from explain, select and score documents."""


@dataclass
class Pool:
    """Segments with the features that fire in each: any feature finds its negatives there, verified to be silent.

    A feature that fires with a negative activation is not silent.
    """

    segments: Int[np.ndarray, " pool"]
    """The segments, sorted."""
    seen: Bool[np.ndarray, " pool"]
    """Which of them were looked at."""
    feature: Int[np.ndarray, " active"] = field(default_factory=lambda: np.zeros(0, np.int32))
    """A feature that fires; sorted."""
    member: Int[np.ndarray, " active"] = field(default_factory=lambda: np.zeros(0, np.int32))
    """The member of the pool in which it does; sorted for each feature."""
    peak: Float[np.ndarray, " active"] = field(default_factory=lambda: np.zeros(0, np.float32))
    """Its strongest activation there."""

    vectors: Float[np.ndarray, "pool d"] | None = None
    """What each segment means; none where they were not embedded."""

    def fires(self, feature: int) -> Int[np.ndarray, " some"]:
        """The members of the pool in which a feature fires."""
        # bounds of the array's own type: with another one numpy would copy the whole array at every look-up
        low, high = np.searchsorted(self.feature, np.array((feature, feature + 1), self.feature.dtype))
        return self.member[low:high]


class PoolCount:
    """The pool while it is being filled, on the device where the codes are.

    Arguments:
    - `grid`: where the segments lie.
    - `size`: about how many there are in the pool: a uniform sample of each split, in proportion to what the splits are used for.
    - `seed`: seed of the choice; the same one gives every dictionary the same pool.
    - `device`: where the numbers lie.
    """

    def __init__(self, grid: Grid, size: int, seed: int, device: torch.device | str = "cpu") -> None:
        every = grid.all()
        split, key = grid.split(every), uniform(torch.from_numpy(every), torch.zeros(1, dtype=torch.int64), seed).numpy()
        chosen = [every[split == number][np.argsort(key[split == number], kind="stable")] for number in range(len(_SHARES))]
        sizes = [round(size * share) for share in _SHARES]
        segments = np.sort(np.concatenate([part[:wanted] for part, wanted in zip(chosen, sizes, strict=True)]))
        self.segments: Int[Tensor, " pool"] = torch.from_numpy(segments).to(device)
        self.seen: Bool[Tensor, " pool"] = torch.zeros(len(segments), dtype=torch.bool, device=device)
        self._member: Int[Tensor, " segment"] = torch.full((grid.extent // grid.width,), -1, dtype=torch.int32, device=device)
        self._member[self.segments] = torch.arange(len(segments), dtype=torch.int32, device=device)
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, looked_at: Int[Tensor, " row"], pairs: Pairs) -> None:
        """Notes which segments were looked at, and which features fire in them and how strongly."""
        member = self._member[looked_at]
        self.seen[member[member >= 0]] = True
        member = self._member[pairs.segment]
        inside = torch.nonzero(member >= 0).squeeze(1)
        self._parts.append((pairs.feature[inside], member[inside], pairs.peak[inside]))

    def merge(self, other: "PoolCount") -> None:
        """Adds what another pass saw of the same pool."""
        device = self.segments.device
        self.seen |= other.seen.to(device)
        self._parts += [(feature.to(device), member.to(device), peak.to(device)) for feature, member, peak in other._parts]

    def tensors(self) -> dict[str, Tensor]:
        """What was noted, sorted by feature, then segment; by name, for a file."""
        empty = torch.zeros(0, dtype=torch.int32, device=self.segments.device)
        parts = [(empty, empty, empty.float()), *self._parts]
        feature, member, peak = (torch.cat([part[i] for part in parts]) for i in range(3))
        order = (feature.long() * max(1, len(self.segments)) + member).argsort()
        self._parts = [(feature[order], member[order], peak[order])]
        return {"seen": self.seen, **dict(zip(("feature", "member", "peak"), self._parts[0], strict=True))}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `tensors` gave."""
        device = self.segments.device
        self.seen = tensors["seen"].to(device)
        self._parts = [(tensors["feature"].to(device), tensors["member"].to(device), tensors["peak"].to(device))]

    def pool(self) -> Pool:
        """The pool as it is now."""
        found = {name: tensor.cpu().numpy().copy() for name, tensor in self.tensors().items()}
        return Pool(segments=self.segments.cpu().numpy().copy(), **found)
