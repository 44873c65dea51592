"""The tables of a feature store. `SCHEMA` is raised whenever they change; see docs/formats.md."""

from sqlalchemy import Boolean, Column, Double, Index, Integer, LargeBinary, MetaData, Table, Text

SCHEMA = 1
metadata = MetaData()

meta = Table("meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))
"""Facts of the whole store: schema, model, source, sizes."""

features = Table(
    "features",
    metadata,
    Column("index", Integer, primary_key=True),
    Column("count", Integer, nullable=False),
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
for _name, _column in SORTS.items():
    Index(f"features_by_{_name}", _column, features.c.index)

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
)
"""What only the feature page shows: sum of squares, histogram (int32 a bin), active segments of each split (int64), token counts (JSON)."""

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
    Column("rank", Integer, primary_key=True),
    Column("other", Integer, nullable=False),
    Column("cosine", Double, nullable=False),
)
"""Features with close decoder directions."""

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
    Column("segment", Integer, primary_key=True),
    Column("document", Integer, nullable=False),
    Column("domain", Text, nullable=False),
    Column("split", Integer, nullable=False),
    Column("position", Integer, nullable=False),
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
)
"""Scores of a label by one scorer, headline first, as JSON."""

WORDS = "CREATE VIRTUAL TABLE words USING fts5(label, tokens, tokenize='unicode61 remove_diacritics 2')"
"""The index of words over labels and top tokens; its rowid is the feature."""
