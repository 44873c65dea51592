"""Stand-ins for what the peers import but do not need to train on given rows: model libraries, loggers, plots, data sets.

Where such a package is installed its stand-in is used all the same, so that a run does not depend on what a machine has.
"""

import dataclasses
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

ABSENT = {
    *("transformer_lens", "datasets", "wandb", "nnsight", "nltk", "babe", "plotly", "plotly_express", "simple_parsing", "dotenv"),
    *("umap", "circuitsvis", "zstandard", "tenacity", "mamba_lens", "accelerate"),
}


class HookPoint(nn.Module):
    """A place that can be hooked: passes its input through."""

    def forward(self, x: Any) -> Any:
        return x


class HookedRootModule(nn.Module):
    """A module that knows its hook points."""

    def setup(self) -> None:
        self.hook_dict = {name: module for name, module in self.named_modules() if isinstance(module, HookPoint)}


class Helpers:
    """Fields of configs that a command line would read."""

    @staticmethod
    def field(default: Any = None, **_: object) -> Any:
        return dataclasses.field(default=default)

    @staticmethod
    def dict_field(default: dict[str, Any], **_: object) -> Any:
        return dataclasses.field(default_factory=lambda: dict(default))


def list_field(*default: Any) -> Any:
    """A field that holds a list of the defaults."""
    return dataclasses.field(default_factory=lambda: list(default))


def send_to_device(tensors: Any, device: object) -> Any:
    """What the stand-in for a model makes is where it belongs."""
    return tensors


REAL: dict[str, Any] = {
    "HookPoint": HookPoint,
    "HookedRootModule": HookedRootModule,
    "HookedTransformer": HookedRootModule,
    "helpers": Helpers,
    "list_field": list_field,
    "send_to_device": send_to_device,
}


class _Absent:
    """Anything: it can be made, called, decorated with and subclassed."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *args: Any, **_: object) -> Any:
        return args[0] if args else self


class _Module(ModuleType):
    __path__: Sequence[str] = ()
    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return REAL.get(name) or type(name, (_Absent,), {})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in ABSENT else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


@contextmanager
def absent() -> Iterator[None]:
    """Imports within find the stand-ins; modules that were there before come back afterwards."""
    finder = _Finder()
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in ABSENT}
    sys.meta_path.insert(0, finder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in ABSENT]:
            del sys.modules[name]
        sys.modules.update(hidden)
