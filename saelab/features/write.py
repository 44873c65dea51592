"""Writing a feature store: everything that one pass collected, there whole or not at all."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import OperationalError, connect
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sqlalchemy import Connection, Table, create_engine, insert, text
from sqlalchemy.exc import DatabaseError

from saelab.errors import Conflict
from saelab.features import tables
from saelab.features.collect import Collected
from saelab.features.database import file_of, is_server, server_engine
from saelab.features.examples import Grid
from saelab.features.geometry import NOBODY, LogitLens, Neighbours
from saelab.features.tags import Sampled, Tagger, TextKinds
from saelab.features.words import create_words, insert_words
from saelab.progress import track
from saelab.run import cannot_write, whole

TOP_TOKENS = 5
PEAK_TOKENS = 12
_ROWS = 2000


@dataclass(frozen=True)
class Geometry:
    """How features lie to each other, as far as that is known."""

    neighbours: Mapping[str, Neighbours] = field(default_factory=dict[str, Neighbours])
    """Closest features by `decoder`, `encoder` and `firing`."""
    lens: LogitLens | None = None
    """Which tokens the directions move."""
    places: Float[np.ndarray, "d_sae 2"] | None = None
    """Places on the map."""


def write_features(
    where: Path | str, model: str, source: str, collected: Collected, strings: Sequence[str], geometry: Geometry | None = None
) -> None:
    """Writes a feature store, in place of an older one only when all is written.

    Arguments:
    - `where`: the file, such as `features.db`, or a URL of a PostgreSQL database and schema.
    - `model`, `source`: the first two parts of the features' identity.
    - `collected`: what the pass kept.
    - `strings`: every token of the subject as text, by id.
    - `geometry`: of the directions, where it is known.

    Raises `Conflict` if it cannot be written or is in use.
    """
    writer = _Writer(collected, strings, geometry or Geometry())
    if is_server(where):
        _write_schema(str(where), writer, model, source)
        return
    path = file_of(where)
    with whole(path) as half:
        engine = create_engine(f"sqlite:///{half}")
        try:
            with engine.begin() as connection:
                connection.execute(text("PRAGMA journal_mode = MEMORY"))
                writer.write(connection, model, source)
        except DatabaseError as error:
            raise cannot_write(path, error.orig or error) from None
        finally:
            engine.dispose()
        _release(path)


def _write_schema(url: str, writer: "_Writer", model: str, source: str) -> None:
    """All of a schema in one transaction: readers see the old store until the new one is whole."""
    engine, schema = server_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'))
            connection.execute(text(f'CREATE SCHEMA "{schema}"'))
            writer.write(connection, model, source)
    except DatabaseError as error:
        raise Conflict(f"Cannot write to {url}: {error.orig}".strip() + ". Is the database there, and may this user write to it?") from None
    finally:
        engine.dispose()


def _release(path: Path) -> None:
    """Brings an older store's journal back into its file, so that no journal is left for the new one."""
    if path.exists():
        try:
            with closing(connect(path, timeout=5)) as old:
                old.execute("PRAGMA journal_mode = DELETE")
        except OperationalError:
            raise Conflict(
                f"{path} is in use by another process. Stop the server or the command that works with it, and try again."
            ) from None


class _Writer:
    """Fills the tables of one store."""

    connection: Connection

    def __init__(self, collected: Collected, strings: Sequence[str], geometry: Geometry) -> None:
        self.collected = collected
        self.strings = strings
        self.geometry = geometry
        self.lens = geometry.lens
        kept = [table.segment for table in collected.kept.values()]
        self.segments = np.unique(np.concatenate([*(ids[ids >= 0] for ids in kept), collected.pool.segments[collected.pool.seen]]))
        self.ids, self.counted = collected.grid.tokens(self.segments)
        self.domains = self._domains()

    def write(self, connection: Connection, model: str, source: str) -> None:
        """Makes and fills every table."""
        self.connection = connection
        tables.metadata.create_all(connection)
        create_words(connection)
        collected = self.collected
        facts = {
            "schema": tables.SCHEMA,
            "model": model,
            "source": source,
            "d_sae": collected.d_sae,
            "num_tokens": collected.statistics.num_tokens,
            "width": collected.grid.width,
            "before": collected.grid.before,
            "kurtosis_null": self.lens.kurtosis_null if self.lens else None,
        }
        self._insert(tables.meta, ({"key": key, "value": json.dumps(value)} for key, value in facts.items()))
        self._insert(tables.tokens, ({"id": number, "text": token} for number, token in enumerate(self.strings)))
        self._insert(tables.segments, self._segment_rows())
        self._insert(tables.examples, self._example_rows())
        self._features()
        self._geometry()
        pool = collected.pool
        for name in ("segments", "seen", "feature", "member", "peak"):
            array: np.ndarray = getattr(pool, name)
            self._insert(tables.arrays, [{"name": f"pool.{name}", "data": array.tobytes()}])

    def _insert(self, table: Table, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
        held: list[dict[str, Any]] = []
        for row in rows:
            held.append(row)
            if len(held) == _ROWS:
                self.connection.execute(insert(table), held)
                held = []
        if held:
            self.connection.execute(insert(table), held)

    def _domains(self) -> list[str]:
        """Kind of each segment's document."""
        grid, corpus = self.collected.grid, self.collected.grid.corpus
        documents = corpus.window_document[self.segments // grid.per_window]
        names = {number: corpus.document(number).domain for number in np.unique(documents).tolist()}
        return [names[number] for number in documents.tolist()]

    def _segment_rows(self) -> Iterator[dict[str, Any]]:
        grid, corpus = self.collected.grid, self.collected.grid.corpus
        splits = grid.split(self.segments)
        for row, segment in enumerate(self.segments.tolist()):
            window, place = divmod(segment, grid.per_window)
            start = place * grid.width - grid.before
            yield {
                "segment": segment,
                "document": int(corpus.window_document[window]),
                "domain": self.domains[row],
                "split": int(splits[row]),
                "position": int(corpus.window_start[window]) - int(corpus.policy.prepend_bos) + start,
                "start": start,
                "tokens": self.ids[row].tobytes(),
                "counted": self.counted[row].tobytes(),
            }

    def _example_rows(self) -> Iterator[dict[str, Any]]:
        for kind, kept in self.collected.kept.items():
            sizes = (kept.segment >= 0).sum(1).tolist()
            peaks = {"top": kept.key, "bottom": -kept.key}.get(kind, kept.peak).astype(np.float32)
            for feature, size in enumerate(sizes):
                if size:
                    yield {
                        "feature": feature,
                        "kind": kind,
                        "segments": kept.segment[feature, :size].tobytes(),
                        "peaks": peaks[feature, :size].tobytes(),
                        "scales": np.abs(kept.peak[feature, :size]).tobytes(),
                        "levels": kept.levels[feature, :size].tobytes(),
                    }

    def _features(self) -> None:
        collected, statistics, tagger = self.collected, self.collected.statistics, self._tagger()
        rows, extra, words = [], [], {}
        density, mean = statistics.density, statistics.mean
        for feature in track(range(collected.d_sae), stage="write", total=collected.d_sae, unit="features"):
            sampled = self._sampled(feature)
            peaks, previous = _counts(sampled.peak), _counts(sampled.previous)
            top = [self.strings[token] for token, _ in peaks[:TOP_TOKENS]]
            row = {
                "index": feature,
                "count": int(statistics.count[feature]),
                "density": float(density[feature]),
                "max": float(statistics.max[feature]),
                "min": float(statistics.min[feature]),
                "mean": float(mean[feature]),
                "dead": bool(statistics.count[feature] == 0),
                "top_tokens": json.dumps(top, ensure_ascii=False),
                "tags": json.dumps(tagger.tags(float(density[feature]), sampled)),
            }
            rows.append(row)
            words[feature] = " ".join(top)
            extra.append({"feature": feature, **self._detail(feature, peaks, previous)})
            if len(rows) == _ROWS or feature == collected.d_sae - 1:
                self._insert(tables.features, rows)
                self._insert(tables.details, extra)
                insert_words(self.connection, words)
                rows, extra, words = [], [], {}

    def _tagger(self) -> Tagger:
        grid, own = self.collected.grid, slice(self.collected.grid.before, None)
        texts = ("".join([self.strings[token] for token in map(int, row[row >= 0])]) for row in self.ids)
        pool = np.searchsorted(self.segments, self.collected.pool.segments[self.collected.pool.seen])
        row, column = np.nonzero(self.counted[pool][:, own])
        positions = self.segments[pool][row] % grid.per_window * grid.width + column
        special = [number for number in grid.corpus.policy.special_ids if number < len(self.strings)]
        return Tagger(self.strings, special, TextKinds.of(texts, self.domains), pool, positions)

    def _detail(self, feature: int, peaks: list[tuple[int, int]], previous: list[tuple[int, int]]) -> dict[str, Any]:
        statistics = self.collected.statistics
        return {
            "squares": float(statistics.squares[feature]),
            "histogram": statistics.histogram[feature].tobytes(),
            "segments": self.collected.segments[feature].tobytes(),
            "peak_tokens": json.dumps(peaks[:PEAK_TOKENS]),
            "previous_tokens": json.dumps(previous[:PEAK_TOKENS]),
            "kurtosis": float(self.lens.kurtosis[feature]) if self.lens else None,
            "skew": float(self.lens.skew[feature]) if self.lens else None,
            "x": float(self.geometry.places[feature, 0]) if self.geometry.places is not None else None,
            "y": float(self.geometry.places[feature, 1]) if self.geometry.places is not None else None,
        }

    def _sampled(self, feature: int) -> Sampled:
        """Where the segments of the feature's uniform samples peak, and what stands there."""
        grid, parts = self.collected.grid, [self.collected.kept[kind] for kind in ("explain", "select", "score")]
        sizes = [int((kept.segment[feature] >= 0).sum()) for kept in parts]
        numbers = np.concatenate([kept.segment[feature, :size] for kept, size in zip(parts, sizes, strict=True)])
        levels = np.concatenate([kept.levels[feature, :size] for kept, size in zip(parts, sizes, strict=True)])
        row, column = np.searchsorted(self.segments, numbers), peak_columns(levels, grid)
        before = np.where(column > 0, self.ids[row, column - 1], -1)
        position = numbers % grid.per_window * grid.width + column - grid.before
        return Sampled(peak=self.ids[row, column], previous=before, position=position, row=row)

    def _geometry(self) -> None:
        for kind, near in self.geometry.neighbours.items():
            index, similarity = near.index.tolist(), near.similarity.tolist()
            ranked = (
                {"feature": feature, "kind": kind, "rank": rank, "other": other, "similarity": similarity[feature][rank]}
                for feature, others in enumerate(index)
                for rank, other in enumerate(others)
                if other != NOBODY
            )
            self._insert(tables.neighbours, ranked)
        if self.lens is not None:
            lens, names = self.lens, ("top", "top_values", "bottom", "bottom_values")
            rows = ({"feature": i, **{name: getattr(lens, name)[i].tobytes() for name in names}} for i in range(self.collected.d_sae))
            self._insert(tables.logits, rows)


def _counts(tokens: Int[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """Tokens with how often they occur, most frequent first."""
    return Counter(tokens[tokens >= 0].tolist()).most_common()


def peak_columns(levels: Int[np.ndarray, "n length"], grid: Grid) -> Int[np.ndarray, " n"]:
    """The column of each segment's strongest own token (left context does not count)."""
    return grid.before + np.abs(levels[:, grid.before :].astype(np.int16)).argmax(1)
