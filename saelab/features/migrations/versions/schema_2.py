"""Schema 2: neighbours by three measures, scores that can be sorted by, places on the map, labels as vectors."""

import json

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

_FILTERS = ("index", "dead", "label_found", "density", "tags", "score", "lift", "labeller")


def upgrade() -> None:
    """Brings the tables of schema 1 up to schema 2; every row stays."""
    for name in ("skew", "x", "y"):
        op.add_column("details", sa.Column(name, sa.Double))
    _neighbours()
    _scores()
    op.create_table(
        "meanings",
        sa.Column("feature", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
    for name in ("density", "max", "mean", "score", "lift"):
        op.drop_index(f"features_by_{name}", "features")
    for name in ("index", "density", "max", "mean", "score", "lift"):
        op.create_index(f"features_by_{name}", "features", list(dict.fromkeys((name, *_FILTERS))))
    op.execute("INSERT INTO words (words, rank) VALUES ('rank', 'bm25(4.0, 1.0)')")


def _neighbours() -> None:
    op.rename_table("neighbours", "neighbours_1")
    op.create_table(
        "neighbours",
        sa.Column("feature", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("rank", sa.Integer, primary_key=True),
        sa.Column("other", sa.Integer, nullable=False),
        sa.Column("similarity", sa.Double, nullable=False),
    )
    op.execute("INSERT INTO neighbours SELECT feature, 'decoder', rank, other, cosine FROM neighbours_1")
    op.drop_table("neighbours_1")


def _scores() -> None:
    op.add_column("scores", sa.Column("value", sa.Double))
    op.add_column("scores", sa.Column("lift", sa.Double))
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT feature, labeller, scorer, scores FROM scores")).all()
    change = sa.text(
        "UPDATE scores SET value = :value, lift = :lift WHERE feature = :feature AND labeller = :labeller AND scorer = :scorer"
    )
    for feature, labeller, scorer, written in rows:
        head = json.loads(written)[0]
        key = {"feature": feature, "labeller": labeller, "scorer": scorer}
        connection.execute(change, {**key, "value": head.get("value"), "lift": head.get("lift")})
    for name in ("value", "lift"):
        op.create_index(f"scores_by_{name}", "scores", ["scorer", name, "feature", "labeller"])
