"""The doors between saelab and other libraries: `read_foreign` and `write_foreign`.

A format reads files into SAELens' names and conventions, a `Foreign`, from which saelab's own dictionary is made; it never runs what a file
says, so of pickles only plain tensors are read. What saelab has no counterpart for is refused with the reason, never approximated.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import Tensor

from saelab.dictionary import Dictionary, assemble
from saelab.errors import Corrupt, Invalid, NotFound
from saelab.provenance import Provenance
from saelab.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the files say of the activations; none where they are silent."""

    model: str | None = None
    """The subject, as the other library calls it."""
    hook: str | None = None
    """Where the dictionary reads, in TransformerLens names."""
    target_hook: str | None = None
    """Where a transcoder writes; none for any other dictionary."""
    prepend_bos: bool | None = None
    """Whether windows began with the beginning-of-sequence token."""
    provenance: Provenance | None = None
    """All of it, where saelab itself saved the dictionary."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A dictionary as another library saved it, under SAELens' names."""

    architecture: str
    """The name under which saelab registers the architecture."""
    settings: Mapping[str, Any]
    """SAELens' settings: `d_in`, `d_sae`, and what the architecture needs."""
    tensors: Mapping[str, Tensor]
    """SAELens' tensors."""
    origin: Origin
    """Where its activations come from."""
    file: Path
    """Where the tensors come from."""

    def dictionary(self) -> Dictionary:
        """Our dictionary of it. Raises `NotFound` for an architecture that saelab does not have, `Corrupt` for tensors that do not fit."""
        dictionary = assemble(self.architecture, self.settings, self.tensors, self.file)
        dictionary.provenance = self.origin.provenance
        return dictionary


class Format(ABC):
    """Abstract: how another library lays out a dictionary on disk. Registers itself in `FORMATS`."""

    files: ClassVar[str]
    """The files by which it is recognised, for messages."""

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder or file is laid out like this."""

    @classmethod
    @abstractmethod
    def read(cls, path: Path) -> Foreign:
        """What the folder or file holds. Raises `Corrupt` for broken files, `Invalid` for what saelab has no counterpart for."""

    @classmethod
    def write(cls, dictionary: Dictionary, folder: Path) -> None:
        """Writes a dictionary as the other library does. Raises `Invalid` for what the format cannot say, `Conflict` if it cannot write."""
        written = [name for name in FORMATS if "write" in vars(FORMATS[name])]
        raise Invalid(f"The format {FORMATS.name_of(cls)} is only read, never written. Formats that are written: {', '.join(written)}.")


FORMATS: Registry[Format] = Registry("format", "saelab.interop")
"""Every format, by name."""


def find_foreign(path: Path) -> Foreign:
    """What a folder or file of another library holds, whichever library that is.

    Raises `NotFound` for a path that is not there, `Invalid` naming what was found and what is expected where no format fits.
    """
    if not path.exists():
        raise NotFound(f"There is no {path}. Give the folder of a saved dictionary, or with --repo its path in a repository of the hub.")
    for name in FORMATS:
        if FORMATS[name].recognises(path):
            return FORMATS[name].read(path)
    found = sorted(item.name for item in path.iterdir())[:12] if path.is_dir() else [path.name]
    known = "; ".join(f"{name}: {FORMATS[name].files}" for name in FORMATS)
    raise Invalid(f"{path} is in no known format. It holds {', '.join(found) or 'nothing'}. Expected one of: {known}.")


def read_foreign(path: Path) -> Dictionary:
    """The dictionary that another library saved in a folder or file. Raises what `find_foreign` raises, and `Corrupt` for broken files."""
    return find_foreign(path).dictionary()


def write_foreign(dictionary: Dictionary, folder: Path, format: str) -> None:
    """Writes a dictionary in the format of another library.

    Raises `NotFound` for an unknown format, `Invalid` for a dictionary that it cannot hold, `Conflict` if the folder cannot be written.
    """
    FORMATS[format].write(dictionary, folder)


def read_json(file: Path, required: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The object in a JSON file that another library wrote. Raises `Corrupt` naming the fields that are missing or of another type."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise Corrupt(f"{file} is not readable as JSON: {error}. Copy the whole folder again.") from None
    wrong = [name for name, kind in (required or {}).items() if not isinstance(found, dict) or not isinstance(found.get(name), kind)]
    if wrong or not isinstance(found, dict):
        raise Corrupt(f"{file}: {' and '.join(wrong) or 'an object'} missing or of the wrong type. Was another library's file cut off?")
    return cast("dict[str, Any]", found)


def named(file: Path, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under SAELens' names: `names` maps a file's names to them, and a name that ends in `.T` to the transpose.

    Raises `Corrupt` naming what is missing or unexpected.
    """
    missing, extra = sorted({*names} - {*tensors}), sorted({*tensors} - {*names})
    if missing or extra:
        said = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"holds {', '.join(extra)}, which is not known"] * bool(extra)
        raise Corrupt(f"{file} {' and '.join(said)}. Expected {', '.join(sorted(names))}.")
    return {to.removesuffix(".T"): tensors[name].float().T if to.endswith(".T") else tensors[name].float() for name, to in names.items()}
