"""Imports point down, and slow packages are loaded by those who need them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from house.sources import PACKAGES, ROOT, modules, tree_of

SLOW = {"transformer_lens": "saelab/bridge.py", "datasets": "saelab/texts/hub.py"}
"""Slow packages, and the one file that may import each, inside one function."""

LIGHT = ("saelab", "saelab.errors", "saelab.values", "saelab.registry", "saelab.progress", "saelab.records", "saelab.run")
HEAVY = ("torch", "transformers", "transformer_lens", "datasets", "plotly", "pandas")


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node: ast.AST, package: str) -> list[ast.Import | ast.ImportFrom]:
    """Import statements of a package or something in it, anywhere below a node, but for those that only the type checker sees."""
    found: list[ast.Import | ast.ImportFrom] = []
    unseen = {id(item) for guard in ast.walk(node) if is_for_types(guard) for item in ast.walk(guard)}
    for item in ast.walk(node):
        if id(item) in unseen:
            continue
        names = [alias.name for alias in item.names] if isinstance(item, ast.Import) else []
        names += [item.module or ""] if isinstance(item, ast.ImportFrom) and item.level == 0 else []
        if isinstance(item, ast.Import | ast.ImportFrom) and any(name.split(".")[0] == package for name in names):
            found.append(item)
    return found


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in memory after a statement, in a fresh interpreter."""
    code = f"{statement}; import sys; sys.stdout.write(' '.join(sys.modules))"
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'server'}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=path)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_layers_are_kept():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'server'}", "PATH": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", SLOW)
def test_a_slow_package_is_imported_in_exactly_one_function(package: str):
    places = {str(path) for path in modules() if imports(tree_of(path), package)}
    assert places == {SLOW[package]}
    tree = tree_of(Path(SLOW[package]))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and imports(node, package)]
    inside = [item for node in functions for item in imports(node, package)]
    assert len(functions) == 1
    assert len(inside) == len(imports(tree, package)), "a module-level import is left"


def test_the_foundations_load_without_anything_heavy():
    assert loaded_by(f"import {', '.join(LIGHT)}").isdisjoint(HEAVY)


def test_the_command_line_loads_neither_transformer_lens_nor_datasets():
    assert loaded_by("import saelab_server.cli").isdisjoint(SLOW)


def test_both_packages_are_looked_at():
    assert all(any(str(path).startswith(package) for path in modules()) for package in PACKAGES)
