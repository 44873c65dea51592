"""Registries: named parts, found by importing the files of a folder.

`LABELLERS = Registry("labeller", "saelab.labellers")` knows every class that a file of that package registers with
`@LABELLERS.register("name")`. Adding a file is enough: the command line, the contract tests, the docs and the dashboard read the registry.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

from saelab.errors import unknown

T = TypeVar("T")
_Part = TypeVar("_Part", bound=type)


class Registry(Generic[T]):
    """The parts of one kind, by name.

    Arguments:
    - `what`: what one part is called in messages, such as "labeller".
    - `packages`: dotted names of the folders whose files register the parts.
    """

    def __init__(self, what: str, *packages: str) -> None:
        self.what = what
        self.packages = packages
        self._parts: dict[str, type[T]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[_Part], _Part]:
        """A decorator that gives a class its name in this registry."""

        def keep(part: _Part) -> _Part:
            other = self._parts.get(name)
            assert other is None or other.__qualname__ == part.__qualname__, f"{self.what} {name!r} is registered twice"
            self._parts[name] = cast("type[T]", part)
            return part

        return keep

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            for name in self.packages:
                for module in pkgutil.iter_modules(importlib.import_module(name).__path__):
                    importlib.import_module(f"{name}.{module.name}")

    def __getitem__(self, name: str) -> type[T]:
        """The part of that name. Raises `NotFound` with close matches."""
        self._load()
        if name not in self._parts:
            raise unknown(self.what, name, self._parts)
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._parts))

    def __len__(self) -> int:
        self._load()
        return len(self._parts)

    def name_of(self, part: type) -> str:
        """The name under which a class is registered."""
        self._load()
        return next(name for name, known in self._parts.items() if known is part)
