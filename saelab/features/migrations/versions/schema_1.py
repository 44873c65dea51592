"""Schema 1: the first tables, in SQLite alone."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    """Makes the tables of an empty database."""
    blob, words, number, whole = sa.LargeBinary, sa.Text, sa.Double, sa.Integer
    key = {"primary_key": True}
    needed = {"nullable": False}
    op.create_table("meta", sa.Column("key", words, **key), sa.Column("value", words, **needed))
    numbers = [sa.Column(name, number, **needed) for name in ("density", "max", "min", "mean")]
    op.create_table(
        "features",
        sa.Column("index", whole, **key),
        sa.Column("count", whole, **needed),
        *numbers,
        sa.Column("dead", sa.Boolean, **needed),
        *(sa.Column(name, words, **needed) for name in ("top_tokens", "tags")),
        *(sa.Column(name, words) for name in ("label", "labeller")),
        sa.Column("label_found", sa.Boolean),
        *(sa.Column(name, number) for name in ("score", "lift", "lift_low")),
    )
    for name in ("density", "max", "mean", "score", "lift"):
        op.create_index(f"features_by_{name}", "features", [name, "index"])
    op.create_table(
        "details",
        sa.Column("feature", whole, **key),
        sa.Column("squares", number, **needed),
        *(sa.Column(name, blob, **needed) for name in ("histogram", "segments")),
        *(sa.Column(name, words, **needed) for name in ("peak_tokens", "previous_tokens")),
        sa.Column("kurtosis", number),
    )
    arrays = [sa.Column(name, blob, **needed) for name in ("top", "top_values", "bottom", "bottom_values")]
    op.create_table("logits", sa.Column("feature", whole, **key), *arrays)
    pair = [sa.Column(name, whole, **key) for name in ("feature", "rank")]
    op.create_table("neighbours", *pair, sa.Column("other", whole, **needed), sa.Column("cosine", number, **needed))
    kept = [sa.Column(name, blob, **needed) for name in ("segments", "peaks", "scales", "levels")]
    op.create_table("examples", sa.Column("feature", whole, **key), sa.Column("kind", words, **key), *kept)
    op.create_table(
        "segments",
        sa.Column("segment", whole, **key),
        sa.Column("document", whole, **needed),
        sa.Column("domain", words, **needed),
        *(sa.Column(name, whole, **needed) for name in ("split", "position", "start")),
        *(sa.Column(name, blob, **needed) for name in ("tokens", "counted")),
    )
    op.create_table("tokens", sa.Column("id", whole, **key), sa.Column("text", words, **needed))
    op.create_table("arrays", sa.Column("name", words, **key), sa.Column("data", blob, **needed))
    owner = [sa.Column("feature", whole, **key), sa.Column("labeller", words, **key)]
    op.create_table("labels", *owner, sa.Column("label", words, **needed))
    owner = [sa.Column("feature", whole, **key), sa.Column("labeller", words, **key), sa.Column("scorer", words, **key)]
    op.create_table("scores", *owner, sa.Column("scores", words, **needed))
    op.execute("CREATE VIRTUAL TABLE words USING fts5(label, tokens, tokenize='unicode61 remove_diacritics 2')")
