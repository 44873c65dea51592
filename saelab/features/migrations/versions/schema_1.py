"""Schema 1: the first tables, in SQLite alone."""

from alembic import op

revision = "1"
down_revision = None

_TABLES = (
    'CREATE TABLE meta ("key" TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"))',
    'CREATE TABLE features ("index" INTEGER NOT NULL, count INTEGER NOT NULL, density DOUBLE NOT NULL, max DOUBLE NOT NULL, '
    "min DOUBLE NOT NULL, mean DOUBLE NOT NULL, dead BOOLEAN NOT NULL, top_tokens TEXT NOT NULL, tags TEXT NOT NULL, label "
    'TEXT, labeller TEXT, label_found BOOLEAN, score DOUBLE, lift DOUBLE, lift_low DOUBLE, PRIMARY KEY ("index"))',
    'CREATE INDEX features_by_density ON features (density, "index")',
    'CREATE INDEX features_by_mean ON features (mean, "index")',
    'CREATE INDEX features_by_score ON features (score, "index")',
    'CREATE INDEX features_by_max ON features (max, "index")',
    'CREATE INDEX features_by_lift ON features (lift, "index")',
    "CREATE TABLE details (feature INTEGER NOT NULL, squares DOUBLE NOT NULL, histogram BLOB NOT NULL, segments BLOB NOT "
    "NULL, peak_tokens TEXT NOT NULL, previous_tokens TEXT NOT NULL, kurtosis DOUBLE, PRIMARY KEY (feature))",
    "CREATE TABLE logits (feature INTEGER NOT NULL, top BLOB NOT NULL, top_values BLOB NOT NULL, bottom BLOB NOT NULL, "
    "bottom_values BLOB NOT NULL, PRIMARY KEY (feature))",
    "CREATE TABLE neighbours (feature INTEGER NOT NULL, rank INTEGER NOT NULL, other INTEGER NOT NULL, cosine DOUBLE NOT "
    "NULL, PRIMARY KEY (feature, rank))",
    "CREATE TABLE examples (feature INTEGER NOT NULL, kind TEXT NOT NULL, segments BLOB NOT NULL, peaks BLOB NOT NULL, scales"
    " BLOB NOT NULL, levels BLOB NOT NULL, PRIMARY KEY (feature, kind))",
    "CREATE TABLE segments (segment INTEGER NOT NULL, document INTEGER NOT NULL, domain TEXT NOT NULL, split INTEGER NOT "
    "NULL, position INTEGER NOT NULL, start INTEGER NOT NULL, tokens BLOB NOT NULL, counted BLOB NOT NULL, PRIMARY KEY "
    "(segment))",
    "CREATE TABLE tokens (id INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (id))",
    "CREATE TABLE arrays (name TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (name))",
    "CREATE TABLE labels (feature INTEGER NOT NULL, labeller TEXT NOT NULL, label TEXT NOT NULL, PRIMARY KEY (feature, labeller))",
    "CREATE TABLE scores (feature INTEGER NOT NULL, labeller TEXT NOT NULL, scorer TEXT NOT NULL, scores TEXT NOT NULL, "
    "PRIMARY KEY (feature, labeller, scorer))",
    "CREATE VIRTUAL TABLE words USING fts5(label, tokens, tokenize='unicode61 remove_diacritics 2')",
)


def upgrade() -> None:
    """Makes the tables of an empty database."""
    for statement in _TABLES:
        op.execute(statement)
