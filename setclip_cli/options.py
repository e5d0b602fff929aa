"""Options objects: what a command and its function share, so that a new option is written in one place.

An options class is a frozen dataclass whose fields are annotated with a `Flag`. `cli/flags.py` makes the flags of a
command of them; a Python caller fills the class in. Both meet the same checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from setclip_cli.errors import UsageError, argument, nearest
from setclip_cli.places import is_cut, is_elsewhere


@dataclass(frozen=True)
class Flag:
    """How an option looks on the command line, and which values it takes.

    Attributes:
        help: One line: what the option does.
        name: The flag, where it is not the field's name with dashes.
        metavar: What stands for the value in the help.
        least, most: The range of a number; None for no limit.
        parse: Reads the value from the text of the command line; raises ValueError.
    """

    help: str
    name: str | None = None
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    parse: Callable[[str], Any] | None = None

    def names(self, field: str) -> str:
        return self.name or f"--{field.replace('_', '-')}"


class Options:
    """Base of the options classes: checks choices and ranges when an object is made.

    Raises:
        SetClipError: a value is not one of its choices, or is out of its range; a path is empty.
    """

    def __post_init__(self) -> None:
        for name, (kind, flag) in options_of(type(self)).items():
            value, shown = getattr(self, name), argument(name, flag.names(name))
            choices = choices_of(kind)
            if isinstance(value, str) and Path in get_args(kind):
                refuse_empty(value, shown)
            if value is not None and choices and value not in choices:
                raise UsageError(
                    f"{shown} {value}: is not one of its choices{nearest(str(value), choices)}",
                    fix=f"choose one of: {', '.join(choices)}",
                )
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            too_low = numeric and flag.least is not None and value < flag.least
            if too_low or (numeric and flag.most is not None and value > flag.most):
                limits = f"from {flag.least:g}" if flag.most is None else f"from {flag.least:g} to {flag.most:g}"
                raise UsageError(f"{shown} {value}: is out of its range", fix=f"give a number {limits}")


def refuse_empty(value: str | Path, shown: str) -> None:
    """Refuses an empty text where a value is needed: ``Path("")`` would be the current folder.

    Args:
        value: What the user gave.
        shown: What it is, for the message.

    Raises:
        UsageError: it is empty, or only white space.
    """
    if not str(value).strip():
        raise UsageError(f"{shown} is empty", fix='if it is a variable, such as "$DATA", set it first')


def path_of(given: str | Path, name: str) -> Path:
    """The path that a Python caller gives as the argument ``name``.

    Raises:
        UsageError: it is empty; or it names something on another machine, and this argument must be on this one.
    """
    refuse_empty(given, name)
    if is_elsewhere(given) or is_cut(given):
        raise here_only(argument(name), given)
    return Path(given)


def here_only(shown: str, given: str | Path) -> UsageError:
    """The error about the name of something on another machine where a path of this one is needed.

    Args:
        shown: The argument, for the message.
    """
    place = str(given).partition("?")[0]
    if is_cut(given):
        place = place.replace(":/", "://", 1)
        more = "; in Python, give the name of a place as text, because a Path loses a slash"
    else:
        more = ""
    if shown == argument("out"):
        fix = f"write to a folder of this machine, and copy that to where you want it{more}"
    else:
        fix = f"copy it to this machine, and give the path of the copy{more}"
    return UsageError(f"{shown} {place}: must be on this machine", fix=fix)


def path_or_place(text: str) -> Path | str:
    """Reads the value of a flag: the name of something on another machine as it is, anything else as a path."""
    return text if is_elsewhere(text) else Path(text)


def options_of(kind: Any) -> dict[str, tuple[Any, Flag]]:
    """Field name -> its type and its flag, in the order of the class."""
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in fields(kind):
        base, *notes = get_args(hints[field.name])
        found[field.name] = (base, next(note for note in notes if isinstance(note, Flag)))
    return found


def choices_of(kind: Any) -> tuple[str, ...]:
    """The words that a Literal, or a union with one, allows; empty for other types."""
    if get_origin(kind) in (Union, UnionType):
        return tuple(choice for part in get_args(kind) for choice in choices_of(part))
    return get_args(kind) if get_origin(kind) is Literal else ()
