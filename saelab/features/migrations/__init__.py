"""Revisions of the feature store's tables, for Alembic; each has the number of the schema that it leads to."""
