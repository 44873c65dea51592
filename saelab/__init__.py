"""saelab: from a language model's text to its features, and from features to steered text."""

__version__ = "0.1.0"
