"""Schema 3: an index of scores by feature, so that features without a score of a scorer are found by a merge."""

from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    """Adds the index."""
    op.create_index("scores_by_feature", "scores", ["scorer", "feature", "labeller", "value", "lift"])
