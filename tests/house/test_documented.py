"""Everything public says what it is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from house.sources import modules, tree_of

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_SAID_ELSEWHERE = ("override", "overload", ".setter")
"""Decorators of definitions whose words stand in another place."""


def named(node: ast.expr) -> str:
    """The dotted name of a decorator, without its arguments."""
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def is_value(node: ast.ClassDef) -> bool:
    return any(named(item) in {"value", "dataclass"} for item in node.decorator_list)


def public(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Definition]]:
    """Public classes, functions and methods with their dotted names; bodies of functions are private."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield f"{prefix}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}.{node.name}")


def undocumented_fields(node: ast.ClassDef) -> list[str]:
    """Fields of a value without a string on the line below or a description in their annotation, as query parameters have."""
    following = [*node.body[1:], None]
    return [
        item.target.id
        for item, after in zip(node.body, following, strict=True)
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and not item.target.id.startswith("_")
        and "description=" not in ast.unparse(item.annotation)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str))
    ]


@pytest.mark.parametrize("path", modules(), ids=str)
def test_every_module_says_what_it_is_for(path: Path):
    assert ast.get_docstring(tree_of(path)), f"{path} has no docstring"


@pytest.mark.parametrize("path", modules(), ids=str)
def test_every_public_class_function_and_method_has_a_docstring(path: Path):
    bare = [
        f"{name} (line {node.lineno})"
        for name, node in public(tree_of(path).body, path.stem)
        if not ast.get_docstring(node) and not any(named(item).endswith(_SAID_ELSEWHERE) for item in node.decorator_list)
    ]
    assert bare == []


@pytest.mark.parametrize("path", modules(), ids=str)
def test_every_field_of_a_value_is_described_below_it(path: Path):
    values = [
        node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef) and is_value(node) and not node.name.startswith("_")
    ]
    bare = [f"{node.name}.{field}" for node in values for field in undocumented_fields(node)]
    assert bare == []


def test_a_field_without_words_is_found():
    tree = ast.parse("@value\nclass A:\n    one: int\n    'said'\n    two: int\n")
    (node,) = tree.body
    assert isinstance(node, ast.ClassDef)
    assert undocumented_fields(node) == ["two"]
