"""Scorers: a number for a label, measured on held-out documents."""
