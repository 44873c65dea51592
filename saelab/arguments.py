"""The words of a command line: the command that they make, and what is said of those that nothing knows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Protocol, Union, get_type_hints

import tyro
from tyro.conf import CascadeSubcommandArgs, OmitArgPrefixes, Positional

from saelab.choices import PARTS
from saelab.errors import Invalid, SaelabError, unknown


class Command(Protocol):
    """A command: its fields are its flags."""

    def __call__(self) -> None:
        """Does it."""


def parsed(commands: Mapping[str, type[Command]], args: Sequence[str], shown: bool = True) -> Command:
    """The command that some words make.

    Options of a command may stand before and behind the sub-commands that choose its parts; those of a default part need no sub-command.
    Help and tyro's own complaints are printed where they are to be `shown`. Raises `NotFound` or `Invalid` for a word that nothing knows;
    ends the process, as tyro does, after help and for wrong values.
    """
    if args and not args[0].startswith("-") and args[0] not in commands:
        raise unknown("command", args[0], commands)
    kinds = [Annotated[Any, tyro.conf.subcommand(name, constructor=kind)] for name, kind in commands.items()]
    one: Any = Union[tuple(kinds)]  # noqa: UP007 - made at run time
    command, left = tyro.cli(
        one,
        prog="saelab",
        description="From text to features to steered text.",
        args=args,
        config=(CascadeSubcommandArgs,),
        return_unknown_args=True,
        console_outputs=shown,
    )
    if left:
        raise _not_known(type(command), left)
    return command


def flags_of(command: type) -> dict[str, list[str]]:
    """Every flag of a command, each with the sub-commands that it belongs to; with none where it is the command's own."""
    found: dict[str, list[str]] = {}
    for flag, part in _flags(command):
        found.setdefault(flag, []).extend([part] if part else [])
    return found


def _not_known(command: type, left: Sequence[str]) -> SaelabError:
    """What to say of the first word that is left over."""
    known = flags_of(command)
    wrong = next((word.split("=")[0] for word in left if word.startswith("--")), left[0])
    parts = known.get(wrong.replace("_", "-"))
    if parts:
        return Invalid(f"{wrong} is an option of {', '.join(parts)}. Name {'that' if len(parts) == 1 else 'one of them'} before it.")
    if wrong.startswith("-"):
        return unknown("option", wrong, known)
    choices = [choice for field in fields(command) if field.name in PARTS for choice in PARTS[field.name]]
    if choices and (":" in wrong or ":" not in choices[0]):
        return unknown("sub-command", wrong, [choice for choice in choices if choice.split(":")[0] == wrong.split(":")[0]] or choices)
    return Invalid(f"Nothing takes the word {wrong!r}. Options begin with two hyphens; `--help` lists them.")


def _flags(kind: type, prefix: str = "", part: str | None = None, bare: bool = False) -> Iterator[tuple[str, str | None]]:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, name = hints[field.name], field.name.replace("_", "-")
        marks = getattr(hint, "__metadata__", ())
        inner = hint.__origin__ if marks else hint
        if field.name in PARTS and not part:
            for choice, chosen in PARTS[field.name].items():
                yield from _flags(chosen, "" if OmitArgPrefixes in marks else f"{name}.", choice)
        elif is_dataclass(inner) and isinstance(inner, type):
            omit = bare or OmitArgPrefixes in marks
            yield from _flags(inner, "" if omit else f"{prefix}{name}.", part, omit)
        elif Positional not in marks:
            yield f"--{prefix}{name}", part
