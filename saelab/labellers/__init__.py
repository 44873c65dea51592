"""Labellers: a short text for a feature."""
