"""The sketch of a dictionary: what one pass keeps of every feature, bounded and mergeable, on the device where the codes are.

Sketches of different tokens merge, in any order and grouping, to the sketch of all: counts, extremes, histograms, tables and pool to the
bit, sums of activations to rounding in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.errors import Conflict
from saelab.features.entries import Entries
from saelab.features.examples import SPLITS, Grid
from saelab.features.kept import Kept, KeptTable, strongest, uniform
from saelab.features.pool import Pool, PoolCount
from saelab.features.statistics import Statistics
from saelab.features.tally import Tally
from saelab.values import value

TOKENS = "tokens"
"""Name of the table whose items are places of tokens, not segments."""


@value
class CollectConfig:
    """How much is kept of each feature."""

    top: int = 24
    """Segments with the strongest activation that are kept for each feature; as many with the most negative one, where codes are signed."""
    explain: int = 40
    """Size of the uniform sample of active segments that labels are made from (explain documents)."""
    select: int = 16
    """Size of the uniform sample that labels are chosen by (select documents)."""
    score: int = 40
    """Size of the uniform sample that labels are scored on (score documents)."""
    tokens: int = 128
    """Size of the uniform sample of tokens that a feature fires on; tables of tokens and their neighbours are made from it."""
    width: int = 32
    """Tokens in a segment."""
    before: int = 16
    """Tokens of left context shown with a segment."""
    pool: int = 6000
    """Segments in the shared pool that negatives are drawn from."""
    batch: int = 16384
    """Tokens worked on at a time."""
    checkpoint: float = 60.0
    """Seconds after which the state is saved, so that a killed pass can go on."""
    postings: float = 0.0
    """Gigabytes on disk for which tokens fire which feature; 0 for none. Where all documents do not fit, a uniform sample of them does."""
    device: str = "auto"
    """Where the codes are made and counted: `cpu`, `cuda`, ...; `auto` takes a GPU if there is one."""
    seed: int = 0
    """Seed of the samples."""


@dataclass(frozen=True)
class Collected:
    """What a pass found out about every feature."""

    grid: Grid
    """Where the segments of the corpus lie."""
    config: CollectConfig
    """How much was kept."""
    d_sae: int
    """Number of features."""
    statistics: Statistics
    """Counts, moments, extremes, histograms."""
    segments: Int[np.ndarray, "d_sae split"]
    """In how many segments of each split it fires."""
    kept: dict[str, KeptTable]
    """Kept segments by kind: top, explain, select, score, and bottom where codes are signed."""
    tokens: KeptTable
    """A uniform sample of the tokens that it fires on: places (`Grid.tokens_at`) and activations (`peak`)."""
    pool: Pool
    """The shared pool of segments."""


class Sketch:
    """What a pass has kept so far.

    Arguments:
    - `grid`: where the segments of the corpus lie.
    - `config`: how much is kept.
    - `d_sae`: number of features.
    - `num_chunks`: chunks of activations that the pass will read.
    - `device`: where the codes are.
    """

    def __init__(self, grid: Grid, config: CollectConfig, d_sae: int, num_chunks: int, device: torch.device | str = "cpu") -> None:
        self.grid, self.config, self.d_sae = grid, config, d_sae
        self.device = torch.device(device)
        self.chunks = torch.zeros(num_chunks, dtype=torch.bool)
        self.tally = Tally(d_sae, device)
        self.segments: Int[Tensor, " cell"] = torch.zeros(d_sae * len(SPLITS), dtype=torch.int64, device=device)
        sizes = {"top": config.top, "explain": config.explain, "select": config.select, "score": config.score}
        self.kept = {name: Kept(d_sae, size, grid.length, device) for name, size in sizes.items()}
        self.kept[TOKENS] = Kept(d_sae, config.tokens, 0, device)
        self.pool = PoolCount(grid, config.pool, config.seed, device)
        self._split = torch.from_numpy(grid.window_split).to(device)

    def add(self, feature: Int[Tensor, "row slot"], value: Float[Tensor, "row slot"], place: Int[Tensor, " row"]) -> Entries:
        """Counts in the codes of some rows, whole windows, at their places; gives the codes as they were counted."""
        entries = Entries(self.grid, feature, value, place)
        pairs, seed = entries.pairs, self.config.seed
        self.tally.add(entries, len(place))
        self.kept[TOKENS].offer(entries.feature, uniform(entries.place, entries.feature, seed), entries.place, entries.value)
        self.pool.add(place // self.grid.width, pairs)
        split = self._split[pairs.segment // self.grid.per_window].long()
        self.segments.index_add_(0, pairs.feature * len(SPLITS) + split, torch.ones_like(split))
        # a key of -1 is never kept: the segment is not of this table
        key = uniform(pairs.segment, pairs.feature, seed)
        for number, name in enumerate(SPLITS):
            self.kept[name].offer(pairs.feature, torch.where(split == number, key, -1), pairs.segment, pairs.peak, pairs.levels)
        for name, extreme in (("top", pairs.max), ("bottom", -pairs.min)):
            key = torch.where(extreme > 0, strongest(extreme), -1)
            if name == "top" or "bottom" in self.kept or bool((key >= 0).any()):
                self._table(name).offer(pairs.feature, key, pairs.segment, pairs.peak, pairs.levels)
        return entries

    def _table(self, name: str) -> Kept:
        """A table; that of the most negative activations is made when the first one comes."""
        if name not in self.kept:
            self.kept[name] = Kept(self.d_sae, self.config.top, self.grid.length, self.device)
        return self.kept[name]

    def merge(self, other: "Sketch") -> None:
        """Counts in what another pass kept of other chunks. Raises `Conflict` where both read a chunk."""
        if bool((self.chunks & other.chunks).any()):
            both = torch.nonzero(self.chunks & other.chunks).flatten().tolist()
            raise Conflict(
                f"Two parts of a pass both read chunk {both[0]}, whose tokens would count twice. Give each part chunks of its own."
            )
        self.chunks |= other.chunks
        self.tally.merge(other.tally)
        self.segments += other.segments.to(self.device)
        self.pool.merge(other.pool)
        for name, kept in other.kept.items():
            self._table(name).merge(kept)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state by name, for a file."""
        found = {f"tally.{name}": tensor for name, tensor in self.tally.tensors().items()} | {
            "segments": self.segments,
            "chunks": self.chunks,
        }
        found["num_tokens"] = torch.tensor([self.tally.num_tokens])
        found |= {f"pool.{name}": tensor for name, tensor in self.pool.tensors().items()}
        for table, kept in self.kept.items():
            found |= {f"kept.{table}.{name}": tensor for name, tensor in kept.tensors().items()}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `tensors` gave."""

        def below(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        self.chunks, self.segments = tensors["chunks"], tensors["segments"].to(self.device)
        self.tally.load(below("tally."), int(tensors["num_tokens"]))
        self.pool.load(below("pool."))
        for table in dict.fromkeys(name.split(".")[1] for name in tensors if name.startswith("kept.")):
            self._table(table).load(below(f"kept.{table}."))

    def collected(self) -> Collected:
        """What was found out so far, on the CPU."""
        kept = {name: kept.table(by_strength=name in ("top", "bottom")) for name, kept in self.kept.items()}
        return Collected(
            grid=self.grid,
            config=self.config,
            d_sae=self.d_sae,
            statistics=self.tally.statistics(),
            segments=self.segments.view(self.d_sae, len(SPLITS)).cpu().numpy().copy(),
            tokens=kept.pop(TOKENS),
            kept=kept,
            pool=self.pool.pool(),
        )
