"""`make` is the one door."""

import re
import subprocess
from pathlib import Path

import pytest
from house.sources import ROOT, text_of

MAKEFILE = Path("Makefile")
CI = (Path(".ci/run"), Path(".ci/setup"), Path(".ci/browser"))


def phony() -> set[str]:
    return set(re.findall(r"^\.PHONY: (.*)$", text_of(MAKEFILE), flags=re.MULTILINE)[0].split())


def make(*arguments: str) -> str:
    return subprocess.run(["make", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_help_lists_every_target_and_is_what_bare_make_prints():
    listed = set(re.findall(r"^  make (\w+) ", make("help"), flags=re.MULTILINE))
    assert listed == phony()
    assert make() == make("help")


def test_check_is_lint_and_test():
    (needs,) = re.findall(r"^check: (.*?) ##", text_of(MAKEFILE), flags=re.MULTILINE)
    assert needs.split() == ["lint", "test"]


def test_ci_ends_in_make_check():
    assert text_of(Path(".ci/run")).rstrip().endswith("exec make check")


def test_what_make_runs_is_there():
    named = re.findall(r"\b((?:tests|web)/[\w./]+\.py)\b", text_of(MAKEFILE))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("script", CI, ids=str)
def test_scripts_can_be_run_and_stop_at_the_first_error(script: Path):
    assert (ROOT / script).stat().st_mode & 0o111
    assert "set -euo pipefail" in text_of(script)
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_an_old_python_is_refused_with_a_clear_message(tmp_path: Path):
    done = subprocess.run(
        [ROOT / ".ci/setup", tmp_path / "venv"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / "venv").exists()
