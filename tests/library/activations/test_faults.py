"""What a kill or a full disk leaves, at every single step of writing a store."""

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from fake_subject import FakeSubject

from saelab.activations import capture as capture_module
from saelab.activations import disk
from saelab.activations.capture import CaptureConfig, capture
from saelab.activations.disk import DiskStore
from saelab.corpus import Corpus
from saelab.errors import Conflict

HOOKS = ("blocks.0.hook_resid_post", "blocks.10.hook_resid_post")
CONFIG = CaptureConfig(hooks=HOOKS, shard_windows=100)


@contextmanager
def fault(at: int, strike: Callable[[], None], writers: int = 1) -> Generator[list[str]]:
    """Strikes at the so-many-th step of writing: a write (half of it is done then), a flush to the disk, a rename before or after it."""
    steps: list[str] = []
    write, save, flush, rename = Path.write_bytes, disk.write_parts, os.fsync, Path.replace

    def step(name: str) -> None:
        steps.append(name)
        if len(steps) == at + 1:
            strike()

    def torn_write(self: Path, content: bytes) -> int:
        write(self, content[: len(content) // 2])
        step("write")
        return write(self, content)

    def torn_parts(file: Path, parts: Sequence[memoryview]) -> None:
        save(file, [part[: len(part) // 2] for part in parts])
        step("write")
        save(file, parts)

    def failing_flush(file: int) -> None:
        step("flush")
        flush(file)

    def failing_rename(self: Path, target: Path) -> Path:
        step("rename")
        renamed = rename(self, target)
        step("renamed")
        return renamed

    patch = pytest.MonkeyPatch()
    patch.setattr(Path, "write_bytes", torn_write)
    patch.setattr(disk, "write_parts", torn_parts)
    patch.setattr(capture_module, "_WRITERS", writers)  # one takes its steps in one order
    patch.setattr(os, "fsync", failing_flush)
    patch.setattr(Path, "replace", failing_rename)
    try:
        yield steps
    finally:
        patch.undo()


def captured(corpus: Corpus, folder: Path) -> dict[str, DiskStore]:
    return capture(FakeSubject(), corpus, CONFIG, lambda hook: folder / hook)


def killed(corpus: Corpus, folder: Path, at: int, writers: int = 1) -> None:
    """A capture whose process is killed without warning."""
    torch.set_num_threads(1)  # threads do not outlive a fork
    with fault(at, writers=writers, strike=lambda: os.kill(os.getpid(), signal.SIGKILL)):
        captured(corpus, folder)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[str]]:
    """What an undisturbed capture writes, and its steps."""
    folder = tmp_path_factory.mktemp("whole")
    with fault(-1, lambda: None) as steps:
        captured(corpus, folder)
    return content(folder), steps


def test_a_process_killed_at_any_step_loses_and_doubles_nothing(corpus: Corpus, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path):
    files, steps = whole
    assert len(steps) == 4 * len(files)
    context = multiprocessing.get_context("fork")
    for at, name in enumerate(steps):
        folder = tmp_path / f"{at} {name}"
        process = context.Process(target=killed, args=(corpus, folder, at))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        left = content(folder)
        assert len([file for file in left if ".part" in file]) == (name != "renamed"), "a file is half-written under its own name"
        assert {file: bytes_ for file, bytes_ in left.items() if ".part" not in file}.items() <= files.items()
        captured(corpus, folder)
        assert content(folder) == files


@pytest.mark.parametrize("step", ["write", "flush", "rename"])
def test_a_disk_that_is_full_at_any_file_is_a_clear_conflict_and_leaves_nothing_half_written(
    corpus: Corpus, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path, step: str
):
    files, steps = whole

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for at in [number for number, name in enumerate(steps) if name == step]:
        folder = tmp_path / str(at)
        with fault(at, full), pytest.raises(Conflict, match=r"Cannot write .*: No space left on device. Free space or give another folder"):
            captured(corpus, folder)
        assert content(folder).items() <= files.items()
        assert len(content(folder)) < len(files)
        captured(corpus, folder)
        assert content(folder) == files


def test_shards_that_are_written_together_survive_a_kill_too(corpus: Corpus, whole: tuple[dict[str, bytes], list[str]], tmp_path: Path):
    files, steps = whole
    context = multiprocessing.get_context("fork")
    for at in range(2, len(steps) - 4, 7):
        folder = tmp_path / str(at)
        process = context.Process(target=killed, args=(corpus, folder, at, 4))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        left = {file: bytes_ for file, bytes_ in content(folder).items() if ".part" not in file}
        assert left.items() <= files.items()
        captured(corpus, folder)
        assert {file: bytes_ for file, bytes_ in content(folder).items() if ".part" not in file} == files
