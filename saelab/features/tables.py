"""The tables of a feature store, the same in SQLite and PostgreSQL.

`SCHEMA` is raised whenever they change, and a revision in `migrations/` brings older stores up to it; see docs/formats.md.
"""

from sqlalchemy import BigInteger, Boolean, Column, Dialect, Double, Index, Integer, LargeBinary, MetaData, Table, TypeDecorator
from sqlalchemy import Text as PlainText

SCHEMA = 3
metadata = MetaData()
Large = BigInteger().with_variant(Integer, "sqlite")  # in SQLite only a column declared INTEGER is the row's own number


class Text(TypeDecorator[str]):
    """Text that may hold the character NUL, which PostgreSQL cannot store: it becomes its symbol there."""

    impl = PlainText
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """What is written."""
        return value.replace("\0", "␀") if value and dialect.name == "postgresql" else value

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """What is read."""
        return value


meta = Table("meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))
"""Facts of the whole store: schema, model, source, sizes."""

features = Table(
    "features",
    metadata,
    Column("index", Integer, primary_key=True),
    Column("count", Large, nullable=False),
    Column("density", Double, nullable=False),
    Column("max", Double, nullable=False),
    Column("min", Double, nullable=False),
    Column("mean", Double, nullable=False),
    Column("dead", Boolean, nullable=False),
    Column("top_tokens", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("label", Text),
    Column("labeller", Text),
    Column("label_found", Boolean),
    Column("score", Double),
    Column("lift", Double),
    Column("lift_low", Double),
)
"""One narrow row a feature: what the table shows, sorts and filters by. The label and score are those of the label put last."""

SORTS = {"density": features.c.density, "max": features.c.max, "mean": features.c.mean, "score": features.c.score, "lift": features.c.lift}
"""Columns that the table is sorted by. Each has an index that also holds every column that the table is filtered by, so that a page is
found without reading the rows that are passed over."""
_FILTERS = [features.c[name] for name in ("index", "dead", "label_found", "density", "tags", "score", "lift", "labeller")]
for _name, _column in {"index": features.c.index, **SORTS}.items():
    Index(f"features_by_{_name}", *dict.fromkeys((_column, *_FILTERS)))

details = Table(
    "details",
    metadata,
    Column("feature", Integer, primary_key=True),
    Column("squares", Double, nullable=False),
    Column("histogram", LargeBinary, nullable=False),
    Column("segments", LargeBinary, nullable=False),
    Column("peak_tokens", Text, nullable=False),
    Column("previous_tokens", Text, nullable=False),
    Column("kurtosis", Double),
    Column("skew", Double),
    Column("x", Double),
    Column("y", Double),
)
"""What only the feature page and the map show: sum of squares, histogram (int32 a bin), active segments of each split (int64), token
counts (JSON), kurtosis and skew of the logits, place on the map."""

logits = Table(
    "logits",
    metadata,
    Column("feature", Integer, primary_key=True),
    Column("top", LargeBinary, nullable=False),
    Column("top_values", LargeBinary, nullable=False),
    Column("bottom", LargeBinary, nullable=False),
    Column("bottom_values", LargeBinary, nullable=False),
)
"""The logit lens: token ids (int32) and logits (float32), strongest first."""

neighbours = Table(
    "neighbours",
    metadata,
    Column("feature", Integer, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("other", Integer, nullable=False),
    Column("similarity", Double, nullable=False),
)
"""Features that are close by one of three measures: decoder, encoder (cosines) and firing (Jaccard)."""

examples = Table(
    "examples",
    metadata,
    Column("feature", Integer, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("segments", LargeBinary, nullable=False),
    Column("peaks", LargeBinary, nullable=False),
    Column("scales", LargeBinary, nullable=False),
    Column("levels", LargeBinary, nullable=False),
)
"""Kept segments of a feature by kind (top, bottom, explain, select, score): ids (int64), peaks (float32), largest magnitudes
(float32), activations in 1/127 of these (int8)."""

segments = Table(
    "segments",
    metadata,
    Column("segment", Large, primary_key=True),
    Column("document", Large, nullable=False),
    Column("domain", Text, nullable=False),
    Column("split", Integer, nullable=False),
    Column("position", Large, nullable=False),
    Column("start", Integer, nullable=False),
    Column("tokens", LargeBinary, nullable=False),
    Column("counted", LargeBinary, nullable=False),
)
"""Text of the segments: place of the first column in the document and in the window, token ids (int32, -1 none), which ones count
(a byte each)."""

tokens = Table("tokens", metadata, Column("id", Integer, primary_key=True), Column("text", Text, nullable=False))
"""The subject's vocabulary as text."""

arrays = Table("arrays", metadata, Column("name", Text, primary_key=True), Column("data", LargeBinary, nullable=False))
"""The shared pool of segments, as plain little-endian arrays."""

labels = Table(
    "labels",
    metadata,
    Column("feature", Integer, primary_key=True),
    Column("labeller", Text, primary_key=True),
    Column("label", Text, nullable=False),
)
"""Labels without their scores, as JSON."""

scores = Table(
    "scores",
    metadata,
    Column("feature", Integer, primary_key=True),
    Column("labeller", Text, primary_key=True),
    Column("scorer", Text, primary_key=True),
    Column("scores", Text, nullable=False),
    Column("value", Double),
    Column("lift", Double),
)
"""Scores of a label by one scorer, headline first, as JSON; value and lift of the headline beside it."""
for _name in ("value", "lift"):
    Index(f"scores_by_{_name}", scores.c.scorer, scores.c[_name], scores.c.feature, scores.c.labeller)
Index("scores_by_feature", scores.c.scorer, scores.c.feature, scores.c.labeller, scores.c.value, scores.c.lift)

meanings = Table(
    "meanings",
    metadata,
    Column("feature", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("vector", LargeBinary, nullable=False),
)
"""Labels as vectors of norm 1 (float16), with the text that was embedded."""
