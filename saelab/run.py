"""A run: one directory of artifacts, each stage's folder written by that stage alone.

    runs/<run>/
      read.json      corpus/                          token windows
      capture.json   activations/<hook>/              one store a hook
      dictionaries/<source>/                          cfg.json, sae_weights.safetensors, log.jsonl
        train.json evaluate.json collect.json label.json score.json controls.json   quality.json  features.db  controls/

A stage writes its manifest `<stage>.json` last, in one atomic step: the file's existence means that the stage is done. A changed config
is refused with the name of the field, never silently mixed with old results.
"""

import os
import platform
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from safetensors import SafetensorError

from saelab.errors import Conflict, Corrupt, Invalid, NotFound, unknown
from saelab.values import from_json, to_dict, to_json, value

T = TypeVar("T")

RunStage = Literal["read", "capture"]
SourceStage = Literal["train", "evaluate", "collect", "label", "score", "controls"]
RUN_STAGES: tuple[str, ...] = get_args(RunStage)
SOURCE_STAGES: tuple[str, ...] = get_args(SourceStage)
_LATER = {
    "read": ("capture",),
    "train": ("evaluate", "collect", "label", "score", "controls"),
    "collect": ("label", "score", "controls"),
    "label": ("score", "controls"),
    "score": ("controls",),
}
FORMAT = 1


@value
class Manifest:
    """The last thing that a stage writes: what it did, from what, with what."""

    format: int = FORMAT
    """Version of the layout of the stage's folder."""
    stage: str
    """Name of the stage."""
    config: dict[str, Any]
    """The stage's config, as it was given."""
    facts: dict[str, Any]
    """What came out: counts, hashes, policies that later stages need."""
    versions: dict[str, str]
    """Versions of Python and of the packages that matter."""
    seconds: float
    """Seconds that the stage took (the last sitting, if it was resumed)."""
    finished: str
    """When it finished, UTC, ISO 8601."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file (text as UTF-8) so that it is there whole or not at all. Raises `Conflict` if it cannot be written."""
    with whole(path) as half:
        half.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """Gives another path to write to, which takes the place of `path` at the end; after an error nothing is left of it.

    It lies in a folder of its own, so that what the writer itself puts beside it (safetensors writes to a hidden file first, SQLite keeps a
    journal) goes with it, and what a writer that was killed left there goes at the next. Raises `Conflict` if the file cannot be written.
    """
    folder, written = _unfinished(path)
    half = folder / path.name
    try:
        _clear(path)
        folder.mkdir(parents=True)
        yield half
        with half.open("rb+") as file:
            os.fsync(file.fileno())
        half.rename(written)
        shutil.rmtree(folder)  # before the last step, after which nobody would look for it
        written.replace(path)
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from None
    finally:
        _clear(path)


def remove(path: Path) -> None:
    """Deletes a file that `whole` made, where it is there, and what a writer of it that was killed left."""
    path.unlink(missing_ok=True)
    _clear(path)


def _unfinished(path: Path) -> tuple[Path, Path]:
    """The folder in which a file is written, and its name once it is."""
    return path.with_name(path.name + ".part"), path.with_name(path.name + ".part.whole")


def _clear(path: Path) -> None:
    folder, written = _unfinished(path)
    shutil.rmtree(folder, ignore_errors=True)
    for left in (written, folder):  # older versions left a file in the place of the folder
        with suppress(OSError):
            left.unlink()


def cannot_write(path: Path, error: Exception) -> Conflict:
    """What to raise when a file cannot be written."""
    reason = (isinstance(error, OSError) and error.strerror) or error
    return Conflict(f"Cannot write {path}: {reason}. Free space or give another folder, and run the command again.")


def read_saved(kind: type[T], file: Path) -> T:
    """A value from a JSON file that a stage wrote. Raises `Corrupt` naming file and place."""
    try:
        return from_json(kind, file.read_bytes(), where=str(file))
    except OSError as error:
        raise Corrupt(f"{file} cannot be read: {error.strerror}. Run its stage again.") from None
    except Invalid as error:
        raise Corrupt(f"{error}\nThe file was changed or cut off. Delete it and run its stage again.") from None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    names = ("saelab", "torch", "transformers", "transformer-lens", "numpy")
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {"python": platform.python_version(), **found}


class Stages:
    """A folder with manifests: a run, or a dictionary in it.

    Arguments:
    - `path`: the folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self, stage: str) -> Manifest | None:
        """What the stage left, or none where it is not done. Raises `Corrupt` for a file that is no manifest."""
        file = self.path / f"{stage}.json"
        if not file.is_file():
            return None
        return read_saved(Manifest, file)

    def need(self, stage: str) -> Manifest:
        """What the stage left. Raises `NotFound` with the command that makes it."""
        found = self.manifest(stage)
        if found is None:
            run = self.path.parent.parent if self.path.parent.name == "dictionaries" else self.path
            raise NotFound(f"{self.path} has no finished {stage!r} stage. Run: saelab {stage} {run}")
        return found

    def done(self, stage: str, config: object) -> bool:
        """Whether the stage is done with this very config. Raises `Conflict` naming the fields that changed since."""
        found = self.manifest(stage)
        if found is None:
            return False
        self._refuse(stage, differences(found.config, to_dict(config)))
        return True

    def _refuse(self, stage: str, changed: list[str]) -> None:
        if changed:
            lines = "\n".join(f"  {line}" for line in changed)
            raise Conflict(
                f"{self.path} already holds the stage {stage!r}, made with another config:\n{lines}\n"
                f"Use another run folder, or delete {self.path / (stage + '.json')} and what it describes to make it anew."
            )

    def part_done(self, stage: str, part: str, config: object) -> bool:
        """The same for a stage that several parts may do, each with its config under its name: whether this one has."""
        found = self.manifest(stage)
        if found is None or part not in found.config:
            return False
        self._refuse(stage, differences(found.config[part], to_dict(config), part))
        return True

    def finish_part(self, stage: str, part: str, config: object, facts: dict[str, Any], began: float) -> Manifest:
        """Writes the manifest of a stage that several parts may do; what the others left in it stays."""
        found = self.manifest(stage)
        return self.finish(stage, {**(found.config if found else {}), part: to_dict(config)}, facts, began)

    def finish(self, stage: str, config: object, facts: dict[str, Any], began: float) -> Manifest:
        """Writes the stage's manifest, the last act of a stage. `began` is a `time.monotonic()`.

        Stages that rest on this one are done no longer: what they were made from has just been replaced.
        """
        for later in _LATER.get(stage, ()):
            (self.path / f"{later}.json").unlink(missing_ok=True)
        manifest = Manifest(
            stage=stage,
            config=to_dict(config),
            facts=facts,
            versions=versions(),
            seconds=round(time.monotonic() - began, 3),
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        write_atomically(self.path / f"{stage}.json", to_json(manifest))
        return manifest


class Run(Stages):
    """A run's folder: its paths and which of its stages are done."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def corpus(self) -> Path:
        """Where the token windows lie."""
        return self.path / "corpus"

    def activations(self, hook: str) -> Path:
        """Where the activations of one hook lie."""
        return self.path / "activations" / hook

    def sources(self) -> list[str]:
        """Names of the dictionaries, sorted."""
        folder = self.path / "dictionaries"
        return sorted(item.name for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []

    def source(self, name: str) -> Stages:
        """The folder of one dictionary, whether it exists or not."""
        return Stages(self.path / "dictionaries" / name)

    def find_source(self, name: str | None) -> Stages:
        """The folder of a dictionary that exists; without a name, of the only one. Raises `NotFound` with what there is."""
        known = self.sources()
        if name is None and len(known) == 1:
            return self.source(known[0])
        if not known:
            raise NotFound(f"{self.path} holds no dictionary. Run: saelab train {self.path}")
        if name is None:
            raise NotFound(f"{self.path} holds {len(known)} dictionaries ({', '.join(known)}). Name one with --source.")
        if name not in known:
            raise unknown(f"dictionary in {self.path}", name, known)
        return self.source(name)


def open_run(path: Path) -> Run:
    """A run that exists. Raises `NotFound` with the runs that lie beside it."""
    if not path.is_dir():
        beside = [str(item) for item in path.parent.iterdir() if item.is_dir()] if path.parent.is_dir() else []
        raise unknown("run", str(path), beside)
    return Run(path)


def differences(old: object, new: object, place: str = "") -> list[str]:
    """Where two JSON forms differ, a line each: `train.steps: 2000, now 3000`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        missing = object()
        return [
            line
            for key in keys
            for line in differences(old.get(key, missing), new.get(key, missing), f"{place}.{key}" if place else str(key))
        ]
    return [] if old == new else [f"{place}: {_shown(old)}, now {_shown(new)}"]


def _shown(item: object) -> str:
    return "absent" if type(item) is object else repr(item)
