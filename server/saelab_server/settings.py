"""Settings of the service: from flags, or else from `SAELAB_*` variables, or else the defaults."""

import os
from dataclasses import field
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import Positional

from saelab.errors import Invalid
from saelab.values import value

T = TypeVar("T", int, float)

WEB = Path(__file__).parent / "web"
"""Where the built dashboard lies, in a checkout and in an installed package alike."""


def _text(name: str, default: str) -> str:
    return os.environ.get(f"SAELAB_{name}", default)


def _number(name: str, kind: type[T], default: str) -> T:
    given = _text(name, default)
    try:
        return kind(given)
    except ValueError:
        raise Invalid(f"SAELAB_{name} is {given!r}, which is no {kind.__name__}. Expected a number such as {default}.") from None


@value
class Settings:
    """What to serve, where, and how much of the machine one request may take."""

    runs: Annotated[Path, Positional] = field(default_factory=lambda: Path(_text("RUNS", "runs")))
    """Folder that holds the runs (SAELAB_RUNS)."""
    host: str = field(default_factory=lambda: _text("HOST", "127.0.0.1"))
    """Address to listen on (SAELAB_HOST). The service has no login: on another address than 127.0.0.1, whoever reaches it may use it."""
    port: int = field(default_factory=lambda: _number("PORT", int, "8000"))
    """Port to listen on (SAELAB_PORT); 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = field(default_factory=lambda: tuple(_text("ALLOWED_HOSTS", "").split()))
    """Names under which the service may be reached beside localhost and `host` (SAELAB_ALLOWED_HOSTS, separated by spaces)."""
    max_prompt_tokens: int = field(default_factory=lambda: _number("MAX_PROMPT_TOKENS", int, "512"))
    """Tokens that a prompt or a text may have (SAELAB_MAX_PROMPT_TOKENS)."""
    max_tokens: int = field(default_factory=lambda: _number("MAX_TOKENS", int, "512"))
    """Tokens that one request may generate (SAELAB_MAX_TOKENS)."""
    max_labs: int = field(default_factory=lambda: _number("MAX_LABS", int, "4"))
    """Dictionaries held open with their models; the least recently used goes first (SAELAB_MAX_LABS)."""
    max_stores: int = field(default_factory=lambda: _number("MAX_STORES", int, "64"))
    """Feature databases held open (SAELAB_MAX_STORES)."""
    wait_seconds: float = field(default_factory=lambda: _number("WAIT_SECONDS", float, "60"))
    """How long a request waits for its turn on a model that is busy (SAELAB_WAIT_SECONDS)."""
