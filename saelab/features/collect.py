"""Collecting features: one pass over the activations, bounded and mergeable state for each feature.

The activations of the kept segments are kept as they pass (a byte a token, relative to the segment's peak). A second pass over the kept
segments alone would save that memory, but nearly every segment of a small corpus is kept for some feature, so that it would cost
a whole pass more and would need the activations twice.

The algorithm: encode to sparse codes, sort them by feature and place, count; then offer every segment with an activation to the tables of
the strongest ones (key: its peak) and to the uniform samples of each split (key: a hash of segment and feature, so that the sample does not
depend on the order).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from saelab.activations.base import Chunk
from saelab.corpus import Corpus
from saelab.dictionary import Dictionary
from saelab.errors import Invalid
from saelab.features.examples import LEVELS, SPLITS, Grid, Kept, Pool, uniform
from saelab.features.statistics import Statistics
from saelab.progress import track
from saelab.run import whole
from saelab.values import to_dict, value

_CHECKPOINT = "collect.part.safetensors"
_ENCODE_ELEMENTS = 2**25
_LEAST = {name: 1 for name in ("top", "explain", "select", "score", "width", "batch", "checkpoint")} | {"before": 0, "pool": 0, "seed": 0}
_STATISTICS = ("count", "total", "squares", "max", "min", "histogram")
_KEPT = ("key", "segment", "peak", "levels")
_POOL = ("segments", "seen", "feature", "member", "peak")


@value
class CollectConfig:
    """How much is kept of each feature."""

    top: int = 24
    """Segments with the strongest activation that are kept for each feature."""
    explain: int = 40
    """Size of the uniform sample of active segments that labels are made from (explain documents)."""
    select: int = 16
    """Size of the uniform sample that labels are chosen by (select documents)."""
    score: int = 40
    """Size of the uniform sample that labels are scored on (score documents)."""
    width: int = 32
    """Tokens in a segment."""
    before: int = 16
    """Tokens of left context shown with a segment."""
    pool: int = 6000
    """Segments in the shared pool that negatives are drawn from."""
    batch: int = 16384
    """Tokens worked on at a time."""
    checkpoint: int = 500_000
    """Tokens after which the state is saved, so that a killed pass can go on."""
    seed: int = 0
    """Seed of the samples."""


class Collected:
    """What one pass keeps of every feature. Two passes over different windows merge exactly.

    Arguments:
    - `grid`: where the segments of the corpus lie.
    - `config`: how much is kept.
    - `d_sae`: number of features.
    """

    def __init__(self, grid: Grid, config: CollectConfig, d_sae: int) -> None:
        self.grid = grid
        self.config = config
        self.d_sae = d_sae
        self.statistics = Statistics(d_sae)
        self.segments: Int[np.ndarray, "d_sae split"] = np.zeros((d_sae, len(SPLITS)), np.int64)
        sizes = {"top": config.top, "explain": config.explain, "select": config.select, "score": config.score}
        self.kept = {name: Kept(d_sae, size, grid.length) for name, size in sizes.items()}
        self.pool = Pool.draw(grid, config.pool, config.seed)

    def add(
        self,
        feature: Int[np.ndarray, "row slot"],
        activation: Float[np.ndarray, "row slot"],
        window: Int[np.ndarray, " row"],
        position: Int[np.ndarray, " row"],
    ) -> None:
        """Counts in the codes of some rows: whole windows, rows of a window together."""
        batch = _Batch(self.grid, feature, activation, window, position)
        self.statistics.add(batch.feature, batch.value, len(window))
        owner, segment = batch.pair_feature, batch.pair_segment
        split = self.grid.split(segment)
        np.add.at(self.segments, (owner, split), 1)
        self.pool.add(np.unique(window * self.grid.per_window + position // self.grid.width), owner, segment, batch.pair_peak)
        key = uniform(segment, owner, self.config.seed)
        self._offer("top", batch, np.flatnonzero(batch.pair_max > 0), batch.pair_max)
        for number, name in enumerate(SPLITS):
            self._offer(name, batch, np.flatnonzero(split == number), key)
        if batch.pair_min.size and batch.pair_min.min() < 0:
            self.kept.setdefault("bottom", Kept(self.d_sae, self.config.top, self.grid.length))
            self._offer("bottom", batch, np.flatnonzero(batch.pair_min < 0), -batch.pair_min)

    def _offer(self, name: str, batch: "_Batch", some: Int[np.ndarray, " some"], key: Float[np.ndarray, " pair"]) -> None:
        self.kept[name].offer(
            batch.pair_feature[some], key[some], batch.pair_segment[some], batch.pair_peak[some], lambda chosen: batch.levels(some[chosen])
        )

    def merge(self, other: "Collected") -> None:
        """Counts in what another pass collected from other windows of the same corpus."""
        self.statistics.merge(other.statistics)
        self.segments += other.segments
        self.pool.merge(other.pool)
        for name, kept in other.kept.items():
            self.kept.setdefault(name, Kept(self.d_sae, self.config.top, self.grid.length)).merge(kept)

    def save(self, file: Path, fingerprint: str) -> None:
        """Writes the state, whole or not at all. Raises `Conflict` if it cannot be written."""
        self.pool.settle()
        arrays = {f"statistics.{name}": getattr(self.statistics, name) for name in _STATISTICS} | {"segments": self.segments}
        arrays |= {f"pool.{name}": getattr(self.pool, name) for name in _POOL}
        arrays |= {f"kept.{table}.{name}": getattr(kept, name) for table, kept in self.kept.items() for name in _KEPT}
        facts = {"fingerprint": fingerprint, "num_tokens": str(self.statistics.num_tokens), "tables": " ".join(self.kept)}
        with whole(file) as half:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, half, facts)

    def load(self, file: Path, fingerprint: str) -> bool:
        """Takes up a saved state. False where there is none of the same dictionary, corpus and config."""
        try:
            with safe_open(file, framework="numpy") as saved:
                facts = saved.metadata()
                if facts.get("fingerprint") != fingerprint:
                    return False
                self.statistics.num_tokens = int(facts["num_tokens"])
                self.segments = saved.get_tensor("segments")
                for name in _STATISTICS:
                    setattr(self.statistics, name, saved.get_tensor(f"statistics.{name}"))
                for name in _POOL:
                    setattr(self.pool, name, saved.get_tensor(f"pool.{name}"))
                for table in facts["tables"].split():
                    kept = self.kept.setdefault(table, Kept(self.d_sae, self.config.top, self.grid.length))
                    for name in _KEPT:
                        setattr(kept, name, saved.get_tensor(f"kept.{table}.{name}"))
        except (FileNotFoundError, SafetensorError):
            return False
        return True


class _Batch:
    """The active codes of some rows sorted by feature and place, and the (feature, segment) pairs that they make."""

    def __init__(self, grid: Grid, feature: np.ndarray, activation: np.ndarray, window: np.ndarray, position: np.ndarray) -> None:
        context = grid.per_window * grid.width
        windows, local = np.unique(window, return_inverse=True)
        self._grid, self._windows, self._span = grid, windows, len(windows) * context
        row, slot = np.nonzero(activation)
        owner = feature[row, slot].astype(np.int64)
        place = owner * self._span + local[row] * context + position[row]
        order = np.argsort(place)
        self.place = place[order]
        self.feature = owner[order]
        self.value: Float[np.ndarray, " active"] = activation[row, slot][order].astype(np.float32)
        cell = self.place // grid.width
        starts = np.flatnonzero(np.diff(cell, prepend=-1))
        self.pair_feature = self.feature[starts]
        self._pair_begin = cell[starts] * grid.width
        inside = self._pair_begin - self.pair_feature * self._span
        self._pair_window = inside // context
        self.pair_segment = windows[self._pair_window] * grid.per_window + inside % context // grid.width
        self.pair_max = np.maximum.reduceat(self.value, starts) if len(starts) else self.value
        self.pair_min = np.minimum.reduceat(self.value, starts) if len(starts) else self.value
        self.pair_peak = np.where(self.pair_max >= -self.pair_min, self.pair_max, self.pair_min)

    def levels(self, pairs: Int[np.ndarray, " some"]) -> Int[np.ndarray, "some length"]:
        """Activations of each pair's segment and its left context relative to its peak, in steps of 1/127; active tokens never become 0."""
        grid = self._grid
        first = self._pair_begin[pairs] - grid.before
        window = self.pair_feature[pairs] * self._span + self._pair_window[pairs] * (grid.per_window * grid.width)
        low = np.searchsorted(self.place, np.maximum(first, window))
        high = np.searchsorted(self.place, first + grid.length)
        counts = high - low
        pair = np.repeat(np.arange(len(pairs)), counts)
        entry = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
        exact = self.value[entry] / np.abs(self.pair_peak[pairs])[pair] * LEVELS
        rounded = np.clip(np.sign(exact) * np.maximum(1, np.abs(np.rint(exact))), -LEVELS, LEVELS)
        levels = np.zeros((len(pairs), grid.length), np.int8)
        levels[pair, self.place[entry] - first[pair]] = rounded.astype(np.int8)
        return levels


def collect(
    dictionary: Dictionary, store_chunks: Iterable[Chunk], corpus: Corpus, config: CollectConfig, folder: Path | None = None
) -> Collected:
    """Collects every feature of a dictionary in one pass over activations.

    Arguments:
    - `dictionary`: encodes raw activations.
    - `store_chunks`: the activations, always in the same order.
    - `corpus`: the token windows that they come from.
    - `config`: how much is kept.
    - `folder`: where the state is saved now and then, so that a killed pass goes on; delete it with `forget` when all is written.

    Raises `Invalid` for a config that cannot be, and if the activations have another width than the dictionary reads.
    """
    for name, least in _LEAST.items():
        if getattr(config, name) < least:
            raise Invalid(f"{name} is {getattr(config, name)}; it must be {least} or more.")
    state = Collected(Grid(corpus, config.width, config.before), config, dictionary.d_sae)
    mark = _fingerprint(dictionary, corpus, config) if folder else ""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        state.load(folder / _CHECKPOINT, mark)
    done = saved = state.statistics.num_tokens
    batches = _batches(store_chunks, config.batch, done)
    for batch in track(batches, stage="collect", total=corpus.num_tokens, unit="tokens", done=done, size=config.batch):
        _add(state, dictionary, batch)
        if folder and state.statistics.num_tokens - saved >= config.checkpoint:
            state.save(folder / _CHECKPOINT, mark)
            saved = state.statistics.num_tokens
    if folder:
        state.save(folder / _CHECKPOINT, mark)
    state.pool.settle()
    return state


def forget(folder: Path) -> None:
    """Deletes the saved state of a pass, once what it found is written."""
    (folder / _CHECKPOINT).unlink(missing_ok=True)


def _add(state: Collected, dictionary: Dictionary, batch: Chunk) -> None:
    if batch.x.shape[-1] != dictionary.d_in:
        raise Invalid(
            f"The activations have width {batch.x.shape[-1]}, but the dictionary reads width {dictionary.d_in}. Give both one hook."
        )
    directions = dictionary.directions
    rows = max(256, _ENCODE_ELEMENTS // dictionary.d_sae)
    indices: list[np.ndarray] = []
    values: list[np.ndarray] = []
    with torch.no_grad():
        for x in batch.x.split(rows):
            codes = dictionary.encode(x.to(device=directions.device, dtype=directions.dtype))
            indices.append(codes.indices.cpu().numpy())
            values.append(codes.values.float().cpu().numpy())
    slots = max(part.shape[1] for part in values)
    wide = [np.pad(part, ((0, 0), (0, slots - part.shape[1]))) for part in indices]
    full = [np.pad(part, ((0, 0), (0, slots - part.shape[1]))) for part in values]
    state.add(np.concatenate(wide), np.concatenate(full), batch.window.numpy(), batch.position.numpy())


def _batches(chunks: Iterable[Chunk], size: int, skip: int) -> Iterator[Chunk]:
    """The chunks regrouped to about `size` rows of whole windows each, without the batches that hold the first `skip` rows.

    A resumed pass regroups those too, so that it works on the very batches of one that was not killed and rounds alike.
    """
    for batch in _regrouped(chunks, size):
        if skip > 0:
            skip -= len(batch.x)
        else:
            yield batch


def _regrouped(chunks: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    held: list[Chunk] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(len(part.x) for part in held) >= size:
            whole = _join(held)
            yield from _pieces(whole, size)
            held = []
    if held:
        yield from _pieces(_join(held), size)


def _pieces(chunk: Chunk, size: int) -> Iterator[Chunk]:
    """The chunk in pieces of whole windows that end with the first window after every `size` rows."""
    ends = torch.nonzero(chunk.window[1:] != chunk.window[:-1]).flatten() + 1
    ends = torch.cat([ends, torch.tensor([len(chunk.window)])])
    begin = 0
    while begin < len(chunk.window):
        end = int(ends[min(int(torch.searchsorted(ends, begin + size)), len(ends) - 1)])
        yield Chunk(x=chunk.x[begin:end], window=chunk.window[begin:end], position=chunk.position[begin:end])
        begin = end


def _join(parts: list[Chunk]) -> Chunk:
    return Chunk(
        x=torch.cat([part.x for part in parts]),
        window=torch.cat([part.window for part in parts]).contiguous(),
        position=torch.cat([part.position for part in parts]),
    )


def _fingerprint(dictionary: Dictionary, corpus: Corpus, config: CollectConfig) -> str:
    origin = dictionary.provenance
    digest = hashlib.sha256(json.dumps([to_dict(config), None if origin is None else origin.hook]).encode())
    digest.update(f"{corpus.num_documents} {corpus.num_tokens}".encode())
    digest.update(np.asarray(corpus.window_document).tobytes())
    for tensor in (dictionary.directions, *dictionary.state_dict().values()):
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
