"""Two ways to run the command `saelab`: in this process, and in one of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from saelab_server.cli import main

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def saelab(monkeypatch, capsys):
    """The command, run in this process."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["saelab", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


@pytest.fixture
def process():
    """The command, run in a process of its own."""

    def run(*words: object, module: str = "saelab_server") -> Ended:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "server")])
        environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
        found = subprocess.run([sys.executable, "-m", module, *map(str, words)], env=environment, capture_output=True, text=True)
        return Ended(found.returncode, found.stdout, found.stderr)

    return run
