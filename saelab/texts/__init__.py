"""Text sources: where documents come from."""
