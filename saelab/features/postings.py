"""Postings: which tokens fire a feature, and which features a document fires.

Every activation of some documents is kept on disk: of all documents where there is room, else of a uniform sample of them. When the room is
used up, half of the documents are let go, chosen by a hash, so that which ones remain does not depend on the order.

On disk, in `postings/`: shards `<part>-<number>.safetensors`, each of some successive chunks, sorted by feature, then place; and, written
last, `postings.json`. A look-up by feature reads a stretch of each shard, one by document the shards that the document lies in.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_array
from torch import Tensor

from saelab.corpus import Corpus
from saelab.errors import Corrupt, Invalid, NotFound
from saelab.features.entries import Entries
from saelab.features.examples import Grid
from saelab.features.kept import TOP, uniform
from saelab.run import whole, write_atomically

FORMAT = 1
Pooling = Literal["max", "mean", "binary"]
"""How a document's activations become one number a feature."""
_FOLDER, _INDEX = "postings", "postings.json"
_SHARD_ENTRIES = 2**24
PARTS = "collect*.part.safetensors"
"""Names of the files in which the state of a pass and of its parts is saved, in the dictionary's folder."""
_REACH = 2**32


@dataclass(frozen=True)
class Firings:
    """Some activations, in order of their places."""

    feature: Int[np.ndarray, " n"]
    """Which feature fires."""
    document: Int[np.ndarray, " n"]
    """Number of the document."""
    window: Int[np.ndarray, " n"]
    """Number of the window."""
    position: Int[np.ndarray, " n"]
    """Position in the window."""
    value: Float[np.ndarray, " n"]
    """The activation."""

    def __len__(self) -> int:
        return len(self.feature)


@dataclass(frozen=True)
class _Shard:
    """One file: `begin[f]:begin[f + 1]` are the entries of feature f, their places counted from `origin`."""

    begin: Int[np.ndarray, " edge"]
    place: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]
    window: Int[np.ndarray, " window"]
    rows: Int[np.ndarray, " window"]

    def feature(self) -> Int[np.ndarray, " n"]:
        """The feature of each entry."""
        return np.repeat(np.arange(len(self.begin) - 1), np.diff(self.begin))


class PostingsWriter:
    """Writes the postings of one dictionary as its codes come.

    Arguments:
    - `folder`: the dictionary's folder.
    - `mark`: what the postings are of; shards of something else are deleted.
    - `grid`: where the places lie.
    - `d_sae`: number of features.
    - `size`: bytes that the shards may take.
    - `counted`: chunks that were counted before; shards of others were written after the state was saved, and are deleted.
    - `part`: number of the part of the pass, and of how many; other parts' shards are their own until the whole pass.

    Raises `Corrupt` where shards of chunks that were counted are missing.
    """

    def __init__(
        self, folder: Path, mark: str, grid: Grid, d_sae: int, size: int, counted: Sequence[int], part: tuple[int, int] = (0, 1)
    ) -> None:
        self._folder, self._mark, self._grid, self._d_sae, self._size = folder / _FOLDER, mark, grid, d_sae, size
        self._part = f"{part[0]}-of-{part[1]}"
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / _INDEX).unlink(missing_ok=True)
        self._chunks: list[int] = []
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._rows: list[np.ndarray] = []
        documents = torch.arange(grid.corpus.num_documents)
        key = uniform(documents, torch.full_like(documents, -1), 0).numpy()
        self._key = key[grid.corpus.window_document] / (TOP + 1.0)
        own = self._shards(self._part)
        self._claim(own if part[1] > 1 else [*own, *(file for file in self._shards("*") if file not in own)], set(counted))
        self._share = min([1.0, *(_facts(file)["share"] for file in self._shards(self._part))])

    def _claim(self, files: Sequence[Path], counted: set[int]) -> None:
        """Deletes the shards of something else, and those that hold chunks that will be read again or that another shard holds."""
        for file in files:
            facts = _facts(file)
            chunks = set(facts["chunks"])
            if facts["mark"] == self._mark and chunks <= counted:
                counted = counted - chunks
            else:
                file.unlink()
        if counted:
            raise Corrupt(
                f"{self._folder} lacks the postings of {len(counted)} chunks that were collected before. Delete {PARTS} beside it, and "
                "collect again."
            )

    def _shards(self, part: str) -> list[Path]:
        return sorted(self._folder.glob(f"{part}-*.safetensors"))

    def begin(self, chunk: int) -> None:
        """Says that what is added from now on is of that chunk."""
        if sum(len(part[0]) for part in self._entries) >= _SHARD_ENTRIES:
            self.flush()
        self._chunks.append(chunk)

    def add(self, entries: Entries, place: Int[Tensor, " row"]) -> None:
        """Notes the active codes of some rows."""
        found = (entries.feature.cpu().numpy(), entries.place.cpu().numpy(), entries.value.cpu().numpy())
        chosen = self._chosen(found[1] // self._grid.positions)
        self._entries.append((found[0][chosen], found[1][chosen], found[2][chosen]))
        window = place.cpu().numpy() // self._grid.positions
        self._rows.append(window[self._chosen(window)])

    def _chosen(self, window: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        return self._key[window] < self._share

    def flush(self) -> None:
        """Writes what waits as a shard, and lets documents go while there is too much."""
        if not self._chunks:
            return
        empty = (np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.float32))
        feature, place, values = (np.concatenate([part[i] for part in (empty, *self._entries)]) for i in range(3))
        order = np.lexsort((place, feature))
        begin = np.searchsorted(feature[order], np.arange(self._d_sae + 1))
        window, rows = np.unique(np.concatenate([empty[1], *self._rows]), return_counts=True)
        number = 1 + max([-1, *(int(file.stem.rsplit("-", 1)[1]) for file in self._shards(self._part))])
        self._write(
            self._folder / f"{self._part}-{number:05}.safetensors",
            _Shard(begin, place[order], values[order], window, rows),
            self._chunks,
        )
        self._chunks, self._entries, self._rows = [], [], []
        while sum(file.stat().st_size for file in self._shards(self._part)) > self._size:
            self._share /= 2
            self._thin(self._part)

    def _write(self, file: Path, shard: _Shard, chunks: Sequence[int]) -> None:
        origin = int(shard.window[0]) * self._grid.positions if len(shard.window) else 0
        last = int(shard.window[-1]) * self._grid.positions if len(shard.window) else 0
        if last - origin >= _REACH - self._grid.positions:
            raise Invalid(f"The chunks of {file} lie too far apart in the corpus for postings. Collect in fewer parts.")
        facts = {"format": FORMAT, "mark": self._mark, "chunks": list(chunks), "share": self._share, "origin": origin, "last": last}
        arrays = {
            "begin": shard.begin.astype(np.int64),
            "place": (shard.place - origin).astype(np.uint32),
            "value": shard.value.astype(np.float32),
            "window": shard.window.astype(np.int64),
            "rows": shard.rows.astype(np.int32),
        }
        with whole(file) as half:
            save_file(arrays, half, {"postings": json.dumps(facts)})

    def _thin(self, part: str) -> None:
        """Lets go of every document that the present share does not hold."""
        for file in self._shards(part):
            facts = _facts(file)
            if facts["share"] > self._share:
                shard = _read(file)
                feature, keep = shard.feature(), self._chosen(shard.place // self._grid.positions)
                begin = np.searchsorted(feature[keep], np.arange(self._d_sae + 1))
                seen = self._chosen(shard.window)
                thinned = _Shard(begin, shard.place[keep], shard.value[keep], shard.window[seen], shard.rows[seen])
                self._write(file, thinned, facts["chunks"])

    def finish(self) -> None:
        """Writes the last file, which says that all is there."""
        self.flush()
        self._share = min([self._share, *(_facts(file)["share"] for file in self._shards("*"))])
        self._thin("*")
        facts = {"format": FORMAT, "d_sae": self._d_sae, "positions": self._grid.positions, "share": self._share}
        write_atomically(self._folder / _INDEX, json.dumps({**facts, "shards": [file.name for file in self._shards("*")]}) + "\n")


class Postings:
    """The postings of one dictionary.

    Arguments:
    - `folder`: the dictionary's folder.
    - `corpus`: the corpus that was collected on.

    Raises `NotFound` if there are none, `Corrupt` if a file is not what it should be.
    """

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.folder, self.corpus = folder / _FOLDER, corpus
        try:
            facts = json.loads((self.folder / _INDEX).read_bytes())
        except FileNotFoundError:
            raise NotFound(f"There are no postings in {folder}. Collect with room for them: saelab collect RUN --postings 2") from None
        except ValueError as error:
            raise Corrupt(f"{self.folder / _INDEX} is not JSON ({error}). Run `saelab collect` again.") from None
        if facts.get("format") != FORMAT:
            raise Corrupt(
                f"{self.folder / _INDEX} has format {facts.get('format')}, where {FORMAT} was expected. Run `saelab collect` again."
            )
        self.d_sae: int = facts["d_sae"]
        self.share: float = facts["share"]
        self._positions: int = facts["positions"]
        self._files = [self.folder / name for name in facts["shards"]]

    def feature(self, index: int) -> Firings:
        """Where a feature fires, in order of place. Raises `NotFound` if there is no such feature."""
        if not 0 <= index < self.d_sae:
            raise NotFound(f"There is no feature {index}: the features are 0 to {self.d_sae - 1}.")
        places, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for file in self._files:
            with _opened(file) as shard:
                low, high = shard.get_slice("begin")[index : index + 2].tolist()
                places.append(shard.get_slice("place")[low:high].astype(np.int64) + _facts(file)["origin"])
                values.append(shard.get_slice("value")[low:high])
        return self._firings(np.full(sum(map(len, places)), index), np.concatenate(places), np.concatenate(values))

    def document(self, number: int) -> Firings:
        """What fires in a document, in order of place. Raises `NotFound` if there is no such document, or none of it was kept."""
        windows = np.flatnonzero(self.corpus.window_document == number)
        if not len(windows) or number not in self.documents:
            share = "" if self.share == 1 else f" They are of {len(self.documents):,} of {self.corpus.num_documents:,} documents."
            raise NotFound(f"The postings hold nothing of document {number}.{share}")
        first, last = int(windows[0]) * self._positions, int(windows[-1]) * self._positions
        feature, places, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for file in self._files:
            facts = _facts(file)
            if facts["origin"] <= last and first <= facts["last"]:
                shard = _read(file)
                inside = np.flatnonzero((shard.place >= first) & (shard.place < last + self._positions))
                feature.append(np.searchsorted(shard.begin, inside, "right") - 1)
                places.append(shard.place[inside])
                values.append(shard.value[inside])
        return self._firings(np.concatenate(feature), np.concatenate(places), np.concatenate(values))

    def _firings(self, feature: np.ndarray, place: np.ndarray, values: np.ndarray) -> Firings:
        order = np.lexsort((feature, place))
        window, position = np.divmod(place[order], self._positions)
        return Firings(
            feature=feature[order], document=self.corpus.window_document[window], window=window, position=position, value=values[order]
        )

    @cached_property
    def _rows(self) -> Int[np.ndarray, " document"]:
        """Tokens of each document that were looked at and kept."""
        rows = np.zeros(self.corpus.num_documents, np.int64)
        for file in self._files:
            with _opened(file) as shard:
                np.add.at(rows, self.corpus.window_document[shard.get_tensor("window")], shard.get_tensor("rows"))
        return rows

    @cached_property
    def documents(self) -> frozenset[int]:
        """Numbers of the documents whose activations were kept."""
        return frozenset(np.flatnonzero(self._rows).tolist())

    def vectors(self, pooling: Pooling = "max") -> csr_array:
        """One sparse vector a document, [document, feature]: rows of documents that were not kept are empty.

        Arguments:
        - `pooling`: `max`, a feature's strongest activation in the document, with its sign; `mean`, over all tokens looked at; `binary`, 1
          where it fires.
        """
        cells, strongest, sums = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)], [np.zeros(0)]
        for shard in self._each():
            cell = self.corpus.window_document[shard.place // self._positions] * self.d_sae + shard.feature()
            found = _pooled(cell, shard.value, shard.value.astype(np.float64))
            for held, new in zip((cells, strongest, sums), found, strict=True):
                held.append(new)
        cell, peak, total = _pooled(np.concatenate(cells), np.concatenate(strongest), np.concatenate(sums))
        document, feature = np.divmod(cell, self.d_sae)
        values = {"max": peak, "mean": (total / np.maximum(1, self._rows)[document]).astype(np.float32), "binary": np.ones_like(peak)}
        return csr_array((values[pooling], (document, feature)), shape=(self.corpus.num_documents, self.d_sae))

    def _each(self) -> Iterator[_Shard]:
        for file in self._files:
            yield _read(file)


def _pooled(cell: np.ndarray, value: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each cell that occurs the value of the largest magnitude, and the sum of the totals."""
    order = np.lexsort((value, np.abs(value), cell))
    last = np.flatnonzero(np.diff(cell[order], append=-1))
    first = np.concatenate([[0], last[:-1] + 1])[: len(last)]
    sums = np.add.reduceat(total[order], first) if len(first) else total
    return cell[order][last], value[order][last], sums


def _opened(file: Path) -> Any:  # noqa: ANN401 - untyped by safetensors
    try:
        return safe_open(file, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise Corrupt(f"{file} is missing or torn ({error}). Run `saelab collect` again.") from None


def _facts(file: Path) -> dict[str, Any]:
    with _opened(file) as shard:
        return json.loads(shard.metadata()["postings"])


def _read(file: Path) -> _Shard:
    with _opened(file) as shard:
        origin = json.loads(shard.metadata()["postings"])["origin"]
        found = {name: shard.get_tensor(name) for name in ("begin", "place", "value", "window", "rows")}
    return _Shard(**{**found, "place": found["place"].astype(np.int64) + origin})
