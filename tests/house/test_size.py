"""Nothing grows past reading. The exceptions below may only become fewer."""

import ast
from pathlib import Path

import pytest
from house.sources import committed, text_of, tree_of

FILE, FUNCTION = 350, 50

LONG_FILES = {
    "saelab/records.py": 550,  # one page with everything that leaves the process; each entry is a field and its sentence
}
LONG_FUNCTIONS: dict[str, int] = {}
"""`path:name` to lines, with the reason beside each."""

CODE = tuple(path for path in committed() if path.suffix in {".py", ".ts", ".tsx", ".css"} and path.name != "types.ts")
PYTHON = tuple(path for path in CODE if path.suffix == ".py")


def functions(path: Path) -> dict[str, int]:
    """Lines of each function of a file, its decorators not counted."""
    found = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f"{path}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1 for node in found}


@pytest.mark.parametrize("path", CODE, ids=str)
def test_a_file_can_be_read_in_one_sitting(path: Path):
    assert text_of(path).count("\n") <= LONG_FILES.get(str(path), FILE)


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_a_function_fits_on_a_screen(path: Path):
    long = {name: lines for name, lines in functions(path).items() if lines > LONG_FUNCTIONS.get(name, FUNCTION)}
    assert long == {}


def test_every_listed_exception_is_still_one():
    assert [name for name in LONG_FILES if text_of(Path(name)).count("\n") <= FILE] == []
    lengths = {name: lines for path in PYTHON for name, lines in functions(path).items()}
    assert [name for name in LONG_FUNCTIONS if lengths.get(name, 0) <= FUNCTION] == []
