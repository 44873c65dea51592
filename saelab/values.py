"""Frozen values: everything that is saved, sent or given on the command line.

A value is a plain dataclass that is frozen and keyword-only. Its JSON is strict: an unknown key, a missing key or a wrong type is refused
with the place where it stands, so that a typo in a config can never be ignored. The docstring under a field is its command-line help, its
OpenAPI description and its TypeScript comment.
"""

import ast
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from textwrap import dedent
from threading import Lock
from types import MappingProxyType
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError

from saelab.errors import Invalid

T = TypeVar("T")
_Class = TypeVar("_Class", bound=type)

_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
_CONFIG = ConfigDict(
    extra="forbid",
    use_attribute_docstrings=True,
    allow_inf_nan=False,
    arbitrary_types_allowed=False,
    json_schema_serialization_defaults_required=True,  # what is sent has every field, and its schema says so
)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def value(cls: _Class) -> _Class:
    """Makes a class a frozen, keyword-only dataclass whose JSON is strict. It may add fields to those of another value."""
    cls.__pydantic_config__ = _CONFIG
    for base in cls.__mro__[1:]:
        if "__pydantic_config__" in vars(base):
            _describe(base)
    return dataclass(frozen=True, kw_only=True)(cls)


def _describe(base: type) -> None:
    """Puts the strings under the fields of a base into the fields: pydantic looks for them only in the class itself."""
    (body,) = ast.parse(dedent(inspect.getsource(base))).body
    assert isinstance(body, ast.ClassDef), "a base is a class"
    for item, below in pairwise(body.body):
        if isinstance(item, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            field = base.__dataclass_fields__[ast.unparse(item.target)]
            field.metadata = MappingProxyType({"description": inspect.cleandoc(str(below.value.value))})


_building = Lock()


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    with _building:  # pydantic reads the source of a class, which two threads must not do at once
        return TypeAdapter(kind)


def to_dict(item: object) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """The JSON form of a value, as Python objects (dicts, lists, strings, numbers, None)."""
    return _adapter(type(item)).dump_python(item, mode="json")


def to_json(item: object) -> str:
    """The JSON text of a value, indented, ending in a newline."""
    return json.dumps(to_dict(item), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_dict(kind: type[T], data: Mapping[str, Any]) -> T:
    """A value from its JSON form. Raises `Invalid` naming every field that is unknown, missing or wrong."""
    return from_json(kind, json.dumps(data))


def from_json(kind: type[T], text: str | bytes, where: str = "") -> T:
    """A value from JSON text. Raises `Invalid` naming `where` it stands and every field that is unknown, missing or wrong."""
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise Invalid(_explain(kind, error, where)) from None


def _explain(kind: type, error: ValidationError, where: str) -> str:
    lines = [f"{where + ': ' if where else ''}not a valid {kind.__name__}."]
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"]) or "the text"
        unknown = item["type"] in _UNKNOWN
        lines.append(f"  {place}: {'is not a known field' if unknown else item['msg'][0].lower() + item['msg'][1:]}")
    if any(item["type"] in _UNKNOWN for item in error.errors()):
        known = ", ".join(field.name for field in fields(kind)) if hasattr(kind, "__dataclass_fields__") else ""
        lines.append(f"  Known fields: {known}.")
    return "\n".join(lines)
