"""The README tells the truth: its tree, its commands, its script, its requests."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from house.sources import ROOT, blocks, commands, committed, text_of

README = Path("README.md")
UNSHOWN = {"__init__.py", "__main__.py", "py.typed"}
"""Files that every package has, and that the tree leaves out."""


def shown() -> dict[str, list[str]]:
    """The README's tree: each folder that it opens, with the names below it."""
    (tree,) = blocks(README, "text")
    folders: dict[str, list[str]] = {".": []}
    above: list[str] = []
    for line in tree.splitlines():
        indent, names = re.fullmatch(r"( *)(.*?)(?:\s{2,}.*)?", line).groups()  # type: ignore[union-attr]
        above = above[: len(indent) // 2]
        for name in names.split():
            folders.setdefault("/".join(above) or ".", []).append(name.rstrip("/"))
        above.append(names.split()[-1].rstrip("/"))
    return folders


def on_disk(folder: str) -> set[str]:
    """Names that a folder holds, but for dotfiles and what every package has."""
    depth = 0 if folder == "." else folder.count("/") + 1
    inside = [path.parts for path in committed() if folder == "." or str(path).startswith(f"{folder}/")]
    return {name for parts in inside if not (name := parts[depth]).startswith(".") and name not in UNSHOWN}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*##", text_of(Path("Makefile")), flags=re.MULTILINE))


def words_after(program: str) -> list[list[str]]:
    """The commands of one program in the README, without the program's name."""
    return [words[1:] for line in commands(README) if (words := shlex.split(line)) and words[0] == program]


@pytest.mark.parametrize("folder", shown())
def test_a_folder_that_the_tree_opens_is_shown_whole(folder: str):
    assert sorted(shown()[folder]) == sorted(on_disk(folder))


@pytest.mark.parametrize("command", words_after("make"), ids=" ".join)
def test_make_targets_exist(command: list[str]):
    assert command[0] in targets()


def test_both_doors_are_in_the_readme():
    assert [command for command in words_after("make") if command in (["demo"], ["test"])] == [["demo"], ["test"]]


def help_of(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `saelab ... --help` prints."""
    from saelab_server.cli import main

    monkeypatch.setattr(sys, "argv", ["saelab", *words, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", words_after("saelab"), ids=" ".join)
def test_commands_and_their_flags_exist(command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    parts = [word for word in command[1:] if re.fullmatch(r"[a-z-]+:[a-z_-]+", word)]
    texts = [help_of([command[0], *parts[:depth]], monkeypatch, capsys) for depth in range(len(parts) + 1)]
    flags = {word.split("=")[0] for word in command if word.startswith("--")}
    assert {flag for flag in flags if not any(re.search(rf"{flag}\b", text) for text in texts)} == set()


def requests() -> list[tuple[str, str]]:
    """Method and path of each curl command."""
    found: list[tuple[str, str]] = []
    for command in words_after("curl"):
        (url,) = [word for word in command if word.startswith("http://127.0.0.1:8000/")]
        method = "post" if any(word in {"--json", "-d", "--data"} for word in command) else "get"
        found.append((method, url.removeprefix("http://127.0.0.1:8000").split("?")[0]))
    return found


@pytest.mark.parametrize(("method", "path"), requests())
def test_curl_examples_use_routes_of_the_service(method: str, path: str):
    routes = json.loads(text_of(Path("server/openapi.json")))["paths"]
    fitting = [route for route in routes if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", route), path)]
    assert any(method in routes[route] for route in fitting)


@pytest.mark.parametrize("body", [word for command in words_after("curl") for word in command if word.startswith("{")])
def test_the_bodies_of_curl_examples_are_json(body: str):
    assert json.loads(body)


def test_the_script_runs_in_an_empty_folder(tmp_path: Path):
    (script,) = blocks(README, "python")
    assert len(script.splitlines()) <= 32
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'server'}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
