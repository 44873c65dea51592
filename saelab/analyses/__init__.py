"""Analyses: questions over a run."""
