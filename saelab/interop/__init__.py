"""Dictionaries of other libraries, read as ours, and ours written for them. One format a file."""
