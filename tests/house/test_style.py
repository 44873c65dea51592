"""Habits that no linter checks."""

import ast
import re
from pathlib import Path

import pytest
from house.sources import committed, modules, text_of, tree_of

BROAD_EXCEPT: dict[str, str] = {
    "server/saelab_server/cli.py": "the last resort of the command line",
    "saelab/cli.py": "the last resort of the command line",
}
"""Files in which `except Exception` may stand, and why. The list may only become shorter."""

MAY_PRINT = ("saelab/cli.py", "server/saelab_server/cli.py")
"""The two doors that talk to a person."""

BINARY = {".png", ".ico", ".woff2", ".safetensors", ".npz", ".pt"}
TEXT = tuple(path for path in committed() if path.suffix not in BINARY and path.name != "package-lock.json")

UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|TB" r"D)\b")
PLACES = re.compile(r"(?<![\w.\-*])/(?:work|root|opt)/|file:/" r"//|registry mir" r"ror")


def handlers(path: Path) -> list[ast.ExceptHandler]:
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ExceptHandler)]


def is_broad(node: ast.ExceptHandler) -> bool:
    names = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(name is None or ast.unparse(name) in {"Exception", "BaseException"} for name in names)


@pytest.mark.parametrize("path", modules(), ids=str)
def test_only_the_command_line_catches_everything(path: Path):
    broad = [node.lineno for node in handlers(path) if is_broad(node)]
    assert str(path) in BROAD_EXCEPT or broad == []


@pytest.mark.parametrize("path", modules(), ids=str)
def test_the_library_does_not_print(path: Path):
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"]
    assert str(path) in MAY_PRINT or [node.lineno for node in calls] == []


@pytest.mark.parametrize("path", TEXT, ids=str)
def test_nothing_is_left_for_later_and_no_path_of_one_machine_is_written_down(path: Path):
    lines = text_of(path).splitlines()
    found = [f"{number}: {line.strip()[:100]}" for number, line in enumerate(lines, 1) if UNFINISHED.search(line) or PLACES.search(line)]
    assert found == []


def test_there_is_no_drawer_for_odds_and_ends():
    assert [path for path in committed() if path.stem in {"utils", "util", "helpers", "misc", "common"}] == []


def test_every_module_with_a_public_list_keeps_it_sorted_and_true():
    for path in modules():
        names = {node.name for node in tree_of(path).body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        for node in tree_of(path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                listed = ast.literal_eval(node.value)
                assert list(listed) == sorted(listed), path
                assert path.name == "__init__.py" or set(listed) <= names, path
