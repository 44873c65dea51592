"""Dictionaries that need no training, under the same interface as SAEs."""
