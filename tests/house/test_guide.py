"""The training guide tells the truth: its commands parse, its script runs, and it shows every dictionary."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import tyro
from house.sources import ROOT, blocks, commands, text_of

GUIDE = Path("docs/training.md")
COMMANDS = [words[1:] for line in commands(GUIDE) if (words := shlex.split(line)) and words[0] == "saelab"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_guide_parses(command: list[str]):
    from saelab.cli import COMMANDS as KNOWN

    parsed = tyro.extras.subcommand_cli_from_dict(dict(KNOWN), args=command)
    assert type(parsed) is KNOWN[command[0]]


def test_the_script_of_the_guide_runs_in_an_empty_folder(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = "\n".join(blocks(GUIDE, "python"))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mcc=" in done.stdout


def test_the_guide_makes_every_registered_dictionary():
    from saelab.dictionary import DICTIONARIES

    script = "\n".join(blocks(GUIDE, "python"))
    assert [name for name in DICTIONARIES if not re.search(rf"\b{DICTIONARIES[name].__name__}[(.]", script)] == []


def test_the_guide_shows_every_architecture_on_the_command_line():
    from saelab.dictionary import DICTIONARIES, Trainable

    shown = {part for command in COMMANDS for part in command if part.startswith("sae:")}
    trained = {f"sae:{name}" for name in DICTIONARIES if issubclass(DICTIONARIES[name], Trainable)}
    assert trained - shown == set()


def test_every_term_of_a_loss_is_in_the_guide():
    from saelab.dictionary import DICTIONARIES, Trainable

    terms: set[str] = set()
    for kind in map(DICTIONARIES.__getitem__, DICTIONARIES):
        if issubclass(kind, Trainable):
            sae = kind.sized(8, 16, 2)
            rows = torch.randn(32, sae.width, generator=torch.Generator().manual_seed(0))
            sae.initialise(rows, torch.Generator().manual_seed(0))
            terms |= set(sae.losses(rows, torch.arange(2), 0.5).terms)
    assert {name for name in terms if f"`{name}`" not in text_of(GUIDE)} == set()
