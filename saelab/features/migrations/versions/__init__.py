"""The revisions in order: schema 1, schema 2."""
