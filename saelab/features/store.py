"""The feature store: statistics, examples, labels and scores of every feature of one dictionary, in one database."""

import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from sqlite3 import SQLITE_ERROR
from typing import Any

import numpy as np
from jaxtyping import Int
from sqlalchemy import Connection, Engine, and_, create_engine, delete, event, func, insert, select, text, update
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from saelab.errors import Corrupt, Invalid, NotFound
from saelab.features import tables
from saelab.features.examples import LEVELS, KeptSegments, SegmentTexts
from saelab.features.page import bands
from saelab.features.statistics import histogram, proportion
from saelab.features.table_page import Filters, page_of, row_of, word_query
from saelab.records import Feature, FeatureId, FeaturePage, FeatureRow, Label, Neighbour, Score, TokenValue
from saelab.run import cannot_write
from saelab.values import from_json, to_json


class FeatureStore:
    """The features of one dictionary, opened from a file or a URL.

    Arguments:
    - `where`: path of the file, or an SQLAlchemy URL that begins with `sqlite:///`.

    Raises `NotFound` if there is no such file, `Corrupt` if it is no feature store or one of another version.
    """

    def __init__(self, where: Path | str) -> None:
        name = str(where)
        if "://" in name and not name.startswith("sqlite:///"):
            raise Invalid(f"A feature store cannot be opened from {name}. Give a path, or a URL that begins with sqlite:///.")
        self.path = Path(name.removeprefix("sqlite:///"))
        if not self.path.is_file():
            raise NotFound(f"There is no feature store at {self.path}. Run `saelab collect` first.")
        self._engine: Engine = create_engine(f"sqlite:///{self.path}")
        event.listen(self._engine, "connect", _prepare)
        self.facts = self._read_facts()

    def _read_facts(self) -> dict[str, Any]:
        try:
            with self._engine.connect() as connection:
                facts = {key: json.loads(value) for key, value in connection.execute(select(tables.meta))}
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", SQLITE_ERROR) != SQLITE_ERROR:  # the disk's fault or another process's
                raise cannot_write(self.path, error.orig or error) from None
            raise Corrupt(f"{self.path} is not a feature store ({error.orig}). Run `saelab collect` to make it anew.") from None
        except DatabaseError as error:
            raise Corrupt(f"{self.path} is not a feature store ({error.orig}). Run `saelab collect` to make it anew.") from None
        if facts.get("schema") != tables.SCHEMA:
            raise Corrupt(
                f"{self.path} has schema version {facts.get('schema')}, but this saelab reads version {tables.SCHEMA}. "
                "Run `saelab collect` to make it anew, or use the version of saelab that wrote it."
            )
        return facts

    def close(self) -> None:
        """Lets go of the file."""
        self._engine.dispose()

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return int(self.facts["d_sae"])

    @property
    def num_tokens(self) -> int:
        """Tokens that the statistics were made from."""
        return int(self.facts["num_tokens"])

    @property
    def before(self) -> int:
        """Tokens of left context shown with each segment."""
        return int(self.facts["before"])

    @cached_property
    def strings(self) -> tuple[str, ...]:
        """Every token of the subject as text, by id."""
        with self._engine.connect() as connection:
            return tuple(connection.scalars(select(tables.tokens.c.text).order_by(tables.tokens.c.id)))

    def id(self, index: int) -> FeatureId:
        """The identity of a feature. Raises `NotFound` if the dictionary has no such row."""
        if not 0 <= index < self.d_sae:
            raise NotFound(f"There is no feature {index} in {self.facts['source']}: its features are 0 to {self.d_sae - 1}.")
        return FeatureId(model=self.facts["model"], source=self.facts["source"], index=index)

    def page(
        self, filters: Filters | None = None, sort: str = "index", descending: bool = False, cursor: str | None = None, limit: int = 50
    ) -> FeaturePage:
        """One page of the table. Features without the number sorted by come last.

        Raises `Invalid` for a limit or a cursor that cannot be right, `NotFound` for an unknown sort.
        """
        with self._engine.connect() as connection:
            return page_of(connection, filters or Filters(), sort, descending, cursor, limit)

    def search(self, words: str, limit: int = 20) -> list[FeatureRow]:
        """Features whose label or top tokens contain the words (or words that begin like them), best matches first."""
        match = word_query(words)
        if match is None or limit < 1:
            return []
        with self._engine.connect() as connection:
            found = connection.execute(
                text("SELECT rowid FROM words WHERE words MATCH :match ORDER BY bm25(words, 4.0, 1.0), rowid LIMIT :limit"),
                {"match": match, "limit": limit},
            )
            order = {int(number): rank for rank, (number,) in enumerate(found)}
            rows = connection.execute(select(tables.features).where(tables.features.c.index.in_(order))).mappings()
            return sorted(map(row_of, rows), key=lambda row: order[row.index])

    def rows(self, indices: Iterable[int]) -> tuple[FeatureRow, ...]:
        """The table rows of some features, in the order asked for. Raises `NotFound` for one that is not there."""
        wanted = [self.id(index).index for index in indices]
        with self._engine.connect() as connection:
            found = connection.execute(select(tables.features).where(tables.features.c.index.in_(wanted))).mappings()
            by_index = {row.index: row for row in map(row_of, found)}
        return tuple(by_index[index] for index in wanted)

    def feature(self, index: int) -> Feature:
        """All about one feature. Raises `NotFound` if there is none of that index."""
        record = self.record(index)
        top, top_values, bottom, bottom_values = self.logits(index)
        kept, active = self.examples(index), np.frombuffer(record["segments"], np.int64)
        return Feature(
            id=self.id(index),
            label=self.label(index, record["labeller"]) if record["labeller"] else None,
            scores=self.scores(index),
            density=proportion(record["count"], self.num_tokens),
            max=record["max"],
            mean=record["mean"],
            dead=record["dead"],
            tags=tuple(json.loads(record["tags"])),
            histogram=histogram(np.frombuffer(record["histogram"], np.int32)),
            top_logits=self._token_values(top.tolist(), top_values.tolist()),
            bottom_logits=self._token_values(bottom.tolist(), bottom_values.tolist()),
            peak_tokens=self._token_values(*zip(*json.loads(record["peak_tokens"]), strict=True)) if record["count"] else (),
            bands=bands(kept, active, self.segments, self.strings, self.before),
            neighbours=self.neighbours(index),
            previous=index - 1 if index > 0 else None,
            next=index + 1 if index + 1 < self.d_sae else None,
        )

    def _token_values(self, ids: Sequence[int], values: Sequence[float]) -> tuple[TokenValue, ...]:
        return tuple(TokenValue(token=self.strings[i], id=i, value=float(v)) for i, v in zip(ids, values, strict=True))

    def record(self, index: int) -> dict[str, Any]:
        """The columns of `features` and `details` of one feature. Raises `NotFound` if there is none of that index."""
        self.id(index)
        query = select(tables.features, tables.details).join(tables.details, tables.details.c.feature == tables.features.c.index)
        with self._engine.connect() as connection:
            return dict(connection.execute(query.where(tables.features.c.index == index)).mappings().one())

    def logits(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Logit lens: top ids, their logits, bottom ids, their logits; all empty where it was not computed."""
        with self._engine.connect() as connection:
            row = connection.execute(select(tables.logits).where(tables.logits.c.feature == index)).mappings().one_or_none()
        names = (("top", np.int32), ("top_values", np.float32), ("bottom", np.int32), ("bottom_values", np.float32))
        first, second, third, fourth = (np.frombuffer(row[name] if row else b"", kind) for name, kind in names)
        return first, second, third, fourth

    def neighbours(self, index: int) -> tuple[Neighbour, ...]:
        """Features with the closest decoder directions. Raises `NotFound` if there is no such feature."""
        self.id(index)
        near = tables.neighbours
        query = select(near.c.other, near.c.cosine, tables.features.c.label).join(tables.features, tables.features.c.index == near.c.other)
        with self._engine.connect() as connection:
            found = connection.execute(query.where(near.c.feature == index).order_by(near.c.rank))
            return tuple(Neighbour(index=other, cosine=cosine, label=label) for other, cosine, label in found)

    def examples(self, index: int) -> dict[str, KeptSegments]:
        """The segments kept for one feature by kind: top, bottom, explain, select, score. A kind without any is absent."""
        length = int(self.facts["width"]) + self.before
        with self._engine.connect() as connection:
            rows = connection.execute(select(tables.examples).where(tables.examples.c.feature == index)).mappings().all()
        found: dict[str, KeptSegments] = {}
        for row in rows:
            peak, scale = np.frombuffer(row["peaks"], np.float32), np.frombuffer(row["scales"], np.float32)
            levels = np.frombuffer(row["levels"], np.int8).reshape(-1, length)
            values = levels.astype(np.float32) / LEVELS * scale[:, None]
            found[row["kind"]] = KeptSegments(segment=np.frombuffer(row["segments"], np.int64), peak=peak, values=values)
        return found

    def segments(self, numbers: Sequence[int] | None = None) -> SegmentTexts:
        """The text of some segments, or of all that the store holds."""
        query = select(tables.segments).order_by(tables.segments.c.segment)
        if numbers is not None:
            query = query.where(tables.segments.c.segment.in_(numbers))
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        columns = list(zip(*rows, strict=True)) if rows else [()] * 8
        return SegmentTexts(
            segment=np.array(columns[0], np.int64),
            document=np.array(columns[1], np.int64),
            domain=tuple(columns[2]),
            split=np.array(columns[3], np.int64),
            position=np.array(columns[4], np.int64),
            start=np.array(columns[5], np.int64),
            tokens=np.frombuffer(b"".join(columns[6]), np.int32).reshape(len(rows), -1 if rows else 0),
            counted=np.frombuffer(b"".join(columns[7]), np.bool_).reshape(len(rows), -1 if rows else 0),
        )

    def array(self, name: str, kind: type[np.generic]) -> np.ndarray:
        """One of the arrays of the shared pool."""
        with self._engine.connect() as connection:
            return np.frombuffer(connection.execute(select(tables.arrays.c.data).where(tables.arrays.c.name == name)).scalar_one(), kind)

    def all_neighbours(self) -> Int[np.ndarray, "d_sae k"]:
        """Closest features of every feature; without columns where they were not computed."""
        with self._engine.connect() as connection:
            found = connection.scalars(
                select(tables.neighbours.c.other).order_by(tables.neighbours.c.feature, tables.neighbours.c.rank)
            ).all()
        return np.array(found, np.int64).reshape(self.d_sae, -1 if found else 0)

    def promoted(self) -> Int[np.ndarray, "d_sae k"]:
        """Tokens that each feature's direction raises most; without columns where the logit lens was not computed."""
        with self._engine.connect() as connection:
            found = connection.scalars(select(tables.logits.c.top).order_by(tables.logits.c.feature)).all()
        return np.frombuffer(b"".join(found), np.int32).reshape(self.d_sae, -1 if found else 0)

    def column(self, name: str) -> np.ndarray:
        """One number of every feature, such as `density` or `kurtosis`, by index; NaN where it is missing."""
        table, key = (tables.details, "feature") if name in tables.details.c else (tables.features, "index")
        query = select(table.c[name]).order_by(table.c[key])
        with self._engine.connect() as connection:
            return np.array(connection.scalars(query).all(), np.float64)

    @contextmanager
    def _writing(self) -> Generator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise cannot_write(self.path, error.orig or error) from None

    def put_label(self, index: int, label: Label) -> None:
        """Keeps a label and shows it for its feature. Scores of an older label of the same labeller are dropped."""
        self.id(index)
        key = {"feature": index, "labeller": label.labeller}
        with self._writing() as connection:
            _remove(connection, tables.labels, key)
            _remove(connection, tables.scores, key)
            connection.execute(insert(tables.labels).values(**key, label=to_json(replace(label, scores=()))))
            shown = {"label": label.text, "labeller": label.labeller, "label_found": label.found}
            blank = {"score": None, "lift": None, "lift_low": None}
            connection.execute(update(tables.features).where(tables.features.c.index == index).values(**shown, **blank))
            connection.execute(text("UPDATE words SET label = :label WHERE rowid = :index"), {"label": label.text, "index": index})
        if label.scores:
            self.put_scores(index, label, label.scores)

    def put_scores(self, index: int, label: Label | None, scores: Sequence[Score], shown: bool = True) -> None:
        """Keeps the scores that one scorer gave a label, or the feature itself without one, headline first.

        With `shown` the headline becomes what the table shows and sorts by. Raises `NotFound` if the label is not in the store.
        """
        labeller = "" if label is None else self.label(index, label.labeller).labeller
        head = scores[0]
        key = {"feature": index, "labeller": labeller, "scorer": head.scorer}
        with self._writing() as connection:
            _remove(connection, tables.scores, key)
            connection.execute(insert(tables.scores).values(**key, scores=json.dumps([json.loads(to_json(score)) for score in scores])))
            if shown:
                connection.execute(
                    update(tables.features)
                    .where(and_(tables.features.c.index == index, tables.features.c.labeller == labeller))
                    .values(score=head.value, lift=head.lift, lift_low=head.lift_low)
                )

    def scores(self, index: int, labeller: str = "") -> tuple[Score, ...]:
        """Scores of a feature's label by one labeller, or of the feature itself, by scorer."""
        where = and_(tables.scores.c.feature == index, tables.scores.c.labeller == labeller)
        with self._engine.connect() as connection:
            rows = connection.scalars(select(tables.scores.c.scores).where(where).order_by(tables.scores.c.scorer)).all()
        return tuple(from_json(Score, json.dumps(item)) for row in rows for item in json.loads(row))

    def label(self, index: int, labeller: str) -> Label:
        """A feature's label by one labeller, with its scores. Raises `NotFound` where there is none."""
        where = and_(tables.labels.c.feature == index, tables.labels.c.labeller == labeller)
        with self._engine.connect() as connection:
            written = connection.scalar(select(tables.labels.c.label).where(where))
        if written is None:
            raise NotFound(f"{self.id(index)} has no label by {labeller!r}. Run `saelab label` first.")
        return replace(from_json(Label, written), scores=self.scores(index, labeller))

    def labels(self, labeller: str) -> dict[int, Label]:
        """Every label by one labeller, without scores."""
        query = select(tables.labels.c.feature, tables.labels.c.label).where(tables.labels.c.labeller == labeller)
        with self._engine.connect() as connection:
            return {int(feature): from_json(Label, written) for feature, written in connection.execute(query)}

    def labellers(self) -> list[str]:
        """Who made the labels, by name."""
        with self._engine.connect() as connection:
            return list(connection.scalars(select(tables.labels.c.labeller).distinct().order_by(tables.labels.c.labeller)))

    def unlabelled(self, labeller: str) -> list[int]:
        """Features that have no label by that labeller yet, in order."""
        done = select(tables.labels.c.feature).where(tables.labels.c.labeller == labeller)
        query = select(tables.features.c.index).where(tables.features.c.index.not_in(done)).order_by(tables.features.c.index)
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def unscored(self, labeller: str, scorer: str) -> list[int]:
        """Features with a label by that labeller (all of them, where that is empty) that the scorer has not scored yet, in order."""
        done = select(tables.scores.c.feature).where(and_(tables.scores.c.labeller == labeller, tables.scores.c.scorer == scorer))
        have = select(tables.labels.c.feature).where(tables.labels.c.labeller == labeller) if labeller else select(tables.features.c.index)
        owner = have.selected_columns[0]
        with self._engine.connect() as connection:
            return list(connection.scalars(have.where(owner.not_in(done)).order_by(owner)))

    def num_labelled(self) -> int:
        """Features whose shown label states a rule."""
        with self._engine.connect() as connection:
            return int(connection.scalar(select(func.count()).where(tables.features.c.label_found.is_(True))) or 0)


def _remove(connection: Connection, table: tables.Table, key: dict[str, Any]) -> None:
    connection.execute(delete(table).where(*(table.c[name] == value for name, value in key.items())))


def _prepare(connection: Any, _: ConnectionPoolEntry) -> None:  # noqa: ANN401 - the driver's own connection
    """Lets readers work while another process writes."""
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
