"""The feature store: statistics, examples, labels and scores of every feature of one dictionary, in one database."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sqlalchemy import and_, delete, insert, select

from saelab.errors import unknown
from saelab.features import tables
from saelab.features.examples import LEVELS, KeptSegments, SegmentTexts
from saelab.features.label_store import LabelStore
from saelab.features.page import bands
from saelab.features.statistics import histogram, proportion
from saelab.features.table_page import Filters, page_of, rows_of
from saelab.features.words import ranked, word_query
from saelab.records import Feature, FeatureMap, FeaturePage, FeatureRow, Neighbour, TokenValue

NEIGHBOURS = ("decoder", "encoder", "firing")
"""By what features are close: cosine of decoder or encoder directions, or how often both fire (see `geometry`)."""


class FeatureStore(LabelStore):
    """The features of one dictionary, opened from a file or a URL.

    Arguments:
    - `where`: path of the file, or a URL: `sqlite:///...`, or `postgresql://user@host/database?schema=name`.

    Raises `NotFound` if there is no such store, `Corrupt` if it is no feature store or one of a newer version; an older one is upgraded.
    """

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
        with self.engine.connect() as connection:
            return tuple(connection.scalars(select(tables.tokens.c.text).order_by(tables.tokens.c.id)))

    def page(
        self, filters: Filters | None = None, sort: str = "index", descending: bool = False, cursor: str | None = None, limit: int = 50
    ) -> FeaturePage:
        """One page of the table. Features without the number sorted by come last.

        Raises `Invalid` for a limit or a cursor that cannot be right, `NotFound` for an unknown sort.
        """
        with self.engine.connect() as connection:
            return page_of(connection, filters or Filters(), sort, descending, cursor, limit)

    def search(self, words: str, limit: int = 20) -> list[FeatureRow]:
        """Features whose label or top tokens contain the words (or words that begin like them), best matches first."""
        with self.engine.connect() as connection:
            query = word_query(connection, words)
            found = ranked(connection, query, limit) if query and limit > 0 else []
        return list(self.rows(found))

    def search_meaning(self, vector: Float[np.ndarray, " d"], limit: int = 20) -> list[tuple[FeatureRow, float]]:
        """Features whose labels are closest in meaning to a text's vector, with the cosine, closest first.

        Raises `NotFound` where no label was embedded.
        """
        found = self.nearest(vector, limit)
        rows = self.rows(index for index, _ in found)
        return [(row, cosine) for row, (_, cosine) in zip(rows, found, strict=True)]

    def rows(self, indices: Iterable[int]) -> tuple[FeatureRow, ...]:
        """The table rows of some features, in the order asked for. Raises `NotFound` for one that is not there."""
        wanted = [self.id(index).index for index in indices]
        with self.engine.connect() as connection:
            return rows_of(connection, wanted)

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
        with self.engine.connect() as connection:
            return dict(connection.execute(query.where(tables.features.c.index == index)).mappings().one())

    def logits(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Logit lens: top ids, their logits, bottom ids, their logits; all empty where it was not computed."""
        with self.engine.connect() as connection:
            row = connection.execute(select(tables.logits).where(tables.logits.c.feature == index)).mappings().one_or_none()
        names = (("top", np.int32), ("top_values", np.float32), ("bottom", np.int32), ("bottom_values", np.float32))
        first, second, third, fourth = (np.frombuffer(row[name] if row else b"", kind) for name, kind in names)
        return first, second, third, fourth

    def neighbours(self, index: int, by: str = "decoder") -> tuple[Neighbour, ...]:
        """The closest features by one of `NEIGHBOURS`; none where that was not computed. Raises `NotFound` if there is no such feature."""
        self.id(index)
        if by not in NEIGHBOURS:
            raise unknown("kind of neighbours", by, NEIGHBOURS)
        near, label = tables.neighbours.c, tables.features.c.label
        query = select(near.other, near.similarity, label).join(tables.features, tables.features.c.index == near.other)
        with self.engine.connect() as connection:
            found = connection.execute(query.where(and_(near.feature == index, near.kind == by)).order_by(near.rank))
            return tuple(Neighbour(index=other, similarity=number, label=text) for other, number, text in found)

    def map(self) -> FeatureMap:
        """Where every feature lies on the map of decoder directions; without places where it was not made."""
        column, place = tables.features.c, tables.details.c
        query = select(place.x, place.y, column.density, column.score, column.tags).join(tables.details, place.feature == column.index)
        with self.engine.connect() as connection:
            rows = connection.execute(query.order_by(column.index)).all()
        if any(row[0] is None for row in rows):
            return FeatureMap(x=(), y=(), density=(), score=(), tag=(), tags=())
        x, y, density, score, tags = zip(*rows, strict=True)
        first = {written: next(iter(json.loads(written)), "") for written in set(tags)}
        names = sorted({name for name in first.values() if name})
        return FeatureMap(
            x=tuple(round(place, 4) for place in x),
            y=tuple(round(place, 4) for place in y),
            density=tuple(float(f"{share:.3g}") for share in density),
            score=tuple(None if number is None else round(number, 4) for number in score),
            tag=tuple(names.index(first[written]) if first[written] else -1 for written in tags),
            tags=tuple(names),
        )

    def examples(self, index: int) -> dict[str, KeptSegments]:
        """The segments kept for one feature by kind: top, bottom, explain, select, score. A kind without any is absent."""
        length = int(self.facts["width"]) + self.before
        with self.engine.connect() as connection:
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
        with self.engine.connect() as connection:
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
        with self.engine.connect() as connection:
            return np.frombuffer(connection.execute(select(tables.arrays.c.data).where(tables.arrays.c.name == name)).scalar_one(), kind)

    def array_names(self) -> set[str]:
        """Names of these arrays."""
        with self.engine.connect() as connection:
            return set(connection.scalars(select(tables.arrays.c.name)))

    def put_array(self, name: str, array: np.ndarray) -> None:
        """Keeps one more of them, in place of one of the same name."""
        with self.writing() as connection:
            connection.execute(delete(tables.arrays).where(tables.arrays.c.name == name))
            connection.execute(insert(tables.arrays).values(name=name, data=array.tobytes()))

    def all_neighbours(self) -> Int[np.ndarray, "d_sae k"]:
        """Features with the closest decoder directions, of every feature; without columns where they were not computed."""
        with self.engine.connect() as connection:
            found = connection.scalars(
                select(tables.neighbours.c.other)
                .where(tables.neighbours.c.kind == "decoder")
                .order_by(tables.neighbours.c.feature, tables.neighbours.c.rank)
            ).all()
        return np.array(found, np.int64).reshape(self.d_sae, -1 if found else 0)

    def promoted(self) -> Int[np.ndarray, "d_sae k"]:
        """Tokens that each feature's direction raises most; without columns where the logit lens was not computed."""
        with self.engine.connect() as connection:
            found = connection.scalars(select(tables.logits.c.top).order_by(tables.logits.c.feature)).all()
        return np.frombuffer(b"".join(found), np.int32).reshape(self.d_sae, -1 if found else 0)

    def column(self, name: str) -> np.ndarray:
        """One number of every feature, such as `density` or `kurtosis`, by index; NaN where it is missing."""
        table, key = (tables.details, "feature") if name in tables.details.c else (tables.features, "index")
        query = select(table.c[name]).order_by(table.c[key])
        with self.engine.connect() as connection:
            return np.array(connection.scalars(query).all(), np.float64)
