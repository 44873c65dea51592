"""Features: collected in one pass, stored, searched."""
