"""Writing a feature store: everything that one pass collected, in one file that is there whole or not at all."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from sqlite3 import OperationalError, connect
from typing import Any

import numpy as np
from jaxtyping import Int
from sqlalchemy import Connection, Table, create_engine, insert, text
from sqlalchemy.exc import DatabaseError

from saelab.errors import Conflict
from saelab.features import tables
from saelab.features.collect import Collected
from saelab.features.examples import Grid
from saelab.features.geometry import LogitLens, Neighbours
from saelab.features.statistics import DENSE
from saelab.progress import track
from saelab.run import cannot_write, whole

TOP_TOKENS = 5
PEAK_TOKENS = 12
_TOKEN_SHARE = 0.8
_ROWS = 2000


def write_features(
    path: Path,
    model: str,
    source: str,
    collected: Collected,
    strings: Sequence[str],
    neighbours: Neighbours | None = None,
    lens: LogitLens | None = None,
) -> None:
    """Writes a feature store to `path`, in place of an older one only when all is written.

    Arguments:
    - `path`: the file, such as `features.db`.
    - `model`, `source`: the first two parts of the features' identity.
    - `collected`: what the pass kept.
    - `strings`: every token of the subject as text, by id.
    - `neighbours`, `lens`: geometry of the decoder directions, where it is known.

    Raises `Conflict` if the file cannot be written or is in use.
    """
    with whole(path) as half:
        engine = create_engine(f"sqlite:///{half}")
        try:
            with engine.begin() as connection:
                connection.execute(text("PRAGMA journal_mode = MEMORY"))
                tables.metadata.create_all(connection)
                connection.execute(text(tables.WORDS))
                _Writer(connection, collected, strings, lens).write(model, source, neighbours)
        except DatabaseError as error:
            raise cannot_write(path, error.orig or error) from None
        finally:
            engine.dispose()
        _release(path)


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

    def __init__(self, connection: Connection, collected: Collected, strings: Sequence[str], lens: LogitLens | None) -> None:
        self.connection = connection
        self.collected = collected
        self.strings = strings
        self.lens = lens
        kept = [table.segment for table in collected.kept.values()]
        self.segments = np.unique(np.concatenate([*(ids[ids >= 0] for ids in kept), collected.pool.segments[collected.pool.seen]]))
        self.ids, self.counted = collected.grid.tokens(self.segments)

    def write(self, model: str, source: str, neighbours: Neighbours | None) -> None:
        """Fills every table."""
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
        self._geometry(neighbours)
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

    def _segment_rows(self) -> Iterator[dict[str, Any]]:
        grid, corpus = self.collected.grid, self.collected.grid.corpus
        domains: dict[int, str] = {}
        splits = grid.split(self.segments)
        for row, segment in enumerate(self.segments.tolist()):
            window, place = divmod(segment, grid.per_window)
            document = int(corpus.window_document[window])
            if document not in domains:
                domains[document] = corpus.document(document).domain
            start = place * grid.width - grid.before
            yield {
                "segment": segment,
                "document": document,
                "domain": domains[document],
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
        collected, statistics = self.collected, self.collected.statistics
        rows, extra, words = [], [], []
        density, mean = statistics.density, statistics.mean
        for feature in track(range(collected.d_sae), stage="write", total=collected.d_sae, unit="features"):
            peaks, previous = self._peak_counts(feature)
            top = [self.strings[token] for token, _ in peaks[:TOP_TOKENS]]
            dead = bool(statistics.count[feature] == 0)
            row = {
                "index": feature,
                "count": int(statistics.count[feature]),
                "density": float(density[feature]),
                "max": float(statistics.max[feature]),
                "min": float(statistics.min[feature]),
                "mean": float(mean[feature]),
                "dead": dead,
                "top_tokens": json.dumps(top, ensure_ascii=False),
            }
            rows.append({**row, "tags": json.dumps(_tags(dead, float(density[feature]), peaks, self.strings))})
            words.append({"rowid": feature, "tokens": " ".join(top)})
            extra.append({"feature": feature, **self._detail(feature, peaks, previous)})
            if len(rows) == _ROWS or feature == collected.d_sae - 1:
                self._insert(tables.features, rows)
                self._insert(tables.details, extra)
                self.connection.execute(text("INSERT INTO words (rowid, label, tokens) VALUES (:rowid, '', :tokens)"), words)
                rows, extra, words = [], [], []

    def _detail(self, feature: int, peaks: list[tuple[int, int]], previous: list[tuple[int, int]]) -> dict[str, Any]:
        statistics = self.collected.statistics
        return {
            "squares": float(statistics.squares[feature]),
            "histogram": statistics.histogram[feature].tobytes(),
            "segments": self.collected.segments[feature].tobytes(),
            "peak_tokens": json.dumps(peaks[:PEAK_TOKENS]),
            "previous_tokens": json.dumps(previous[:PEAK_TOKENS]),
            "kurtosis": float(self.lens.kurtosis[feature]) if self.lens else None,
        }

    def _peak_counts(self, feature: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Tokens at which the feature's segments peak, and tokens before them, with counts; from the uniform samples."""
        peaks: Counter[int] = Counter()
        previous: Counter[int] = Counter()
        for kind in ("explain", "select", "score"):
            kept = self.collected.kept[kind]
            size = int((kept.segment[feature] >= 0).sum())
            if size:
                row = np.searchsorted(self.segments, kept.segment[feature, :size])
                column = peak_columns(kept.levels[feature, :size], self.collected.grid)
                peaks.update(self.ids[row, column].tolist())
                previous.update(token for token in self.ids[row, column - 1][column > 0].tolist() if token >= 0)
        return peaks.most_common(), previous.most_common()

    def _geometry(self, neighbours: Neighbours | None) -> None:
        if neighbours is not None:
            index, cosine = neighbours.index.tolist(), neighbours.cosine.tolist()
            ranked = (
                {"feature": feature, "rank": rank, "other": other, "cosine": cosine[feature][rank]}
                for feature, others in enumerate(index)
                for rank, other in enumerate(others)
            )
            self._insert(tables.neighbours, ranked)
        if self.lens is not None:
            lens, names = self.lens, ("top", "top_values", "bottom", "bottom_values")
            rows = ({"feature": i, **{name: getattr(lens, name)[i].tobytes() for name in names}} for i in range(self.collected.d_sae))
            self._insert(tables.logits, rows)


def peak_columns(levels: Int[np.ndarray, "n length"], grid: Grid) -> Int[np.ndarray, " n"]:
    """The column of each segment's strongest own token (left context does not count)."""
    return grid.before + np.abs(levels[:, grid.before :].astype(np.int16)).argmax(1)


def _tags(dead: bool, density: float, peaks: list[tuple[int, int]], strings: Sequence[str]) -> list[str]:
    folded: Counter[str] = Counter()
    for token, count in peaks:
        folded[strings[token].strip().lower()] += count
    single = bool(folded) and folded.most_common(1)[0][1] >= _TOKEN_SHARE * folded.total()
    return [name for name, holds in (("dead", dead), ("dense", density > DENSE), ("token", single)) if holds]
