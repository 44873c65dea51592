"""What can go wrong, in terms of the user.

    SaelabError              a clear paragraph for the user; never a traceback
    ├── Invalid              an argument, a config or a request that cannot be right
    ├── NotFound             a run, hook, feature or file that is not there (the text lists close matches)
    ├── Conflict             something that stands in the way: a changed config, a port in use, a folder not writable
    ├── Corrupt              a file that is not what its format says (the text names file and place)
    └── Unscored             a score or label that could not be made (stored as failed, with this reason)

Every text says what was wrong, what was expected, and how to mend it. `assert` is for our own mistakes.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class SaelabError(Exception):
    """Base of all errors that a user can mend. `str(error)` is one clear paragraph."""


class Invalid(SaelabError):
    """An argument, a config or a request that cannot be right."""


class NotFound(SaelabError):
    """Something named by the user that does not exist."""


class Conflict(SaelabError):
    """Something that stands in the way of the work."""


class Corrupt(SaelabError):
    """A file that is not what its format says."""


class Unscored(SaelabError):
    """A score or a label that could not be made; its reason is stored in its place."""


def unknown(what: str, name: str, known: Iterable[str]) -> NotFound:
    """A `NotFound` for a name, with close matches first, or else what there is (at most twelve names)."""
    names = sorted(known)
    close = get_close_matches(name, names, n=4, cutoff=0.5)
    if close:
        hint = f"Did you mean {' or '.join(close)}?"
    elif names:
        hint = f"Known: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}."
    else:
        hint = "There is none yet."
    return NotFound(f"Unknown {what} {name!r}. {hint}")
