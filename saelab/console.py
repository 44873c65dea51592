"""Where the command line writes."""

from rich.console import Console

OUT = Console(highlight=False, soft_wrap=True)
"""Where results go."""
ERR = Console(stderr=True, highlight=False, soft_wrap=True)
"""Where messages go."""
