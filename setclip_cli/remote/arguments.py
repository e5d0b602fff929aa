"""The one seam: a function that takes paths also takes places on other machines.

The decorated function itself knows this machine only. What it reads is copied to the cache before, what it writes is
made in the cache and sent afterwards, and messages and records call the copies by the names of the places.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import ExitStack
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args

from setclip_cli.errors import UsageError, argument
from setclip_cli.options import Options, here_only, options_of, path_of
from setclip_cli.places import is_cut, is_elsewhere
from setclip_cli.remote.place import parse_place

if TYPE_CHECKING:
    from collections.abc import Callable

_WRITTEN = ("sheet",)  # options that are files to write
P = ParamSpec("P")
T = TypeVar("T")


def takes_places(
    *reads: str,
    writes: str | None = None,
    looks: str | None = None,
    part: tuple[str, Callable[[Any, str], bool]] | None = None,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Lets a function take places, such as ``s3://bucket/data``, where it takes paths.

    Args:
        reads: The arguments that are read: a path, or several; also ``NAME=PATH``. The paths in an argument that is an
            options object are always read.
        writes: The argument that is the folder to write.
        part: A read argument of which only some files are needed, and whether one is, from the options object of the
            call (None if it has none) and the file's name in the folder.
        looks: The argument that is a folder which another command will write; it may be missing.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            given = signature.bind(*args, **kwargs)
            named = [name for name, value in given.arguments.items() if _names_a_place(value)]
            if not named:
                return function(*args, **kwargs)
            if "out" in named and writes is None and looks is None:
                path_of(given.arguments["out"], "out")  # before anything is copied
            for name in (*reads, *([] if writes is None else [writes])):
                _refuse_cut(name, given.arguments.get(name))
            out = given.arguments.get(writes) if writes else None
            _refuse_one_in_the_other(given.arguments, reads, out)
            for name, value in given.arguments.items():
                if part and name == part[0] and is_elsewhere(value):
                    given.arguments[name] = _brought_in_part(value, given.arguments, part[1])
                elif name in reads or isinstance(value, Options):
                    given.arguments[name] = brought(value)
                elif name == looks and is_elsewhere(value):
                    from setclip_cli.remote.copies import copy_if_any

                    given.arguments[name] = copy_if_any(parse_place(value))
            with ExitStack() as stack:
                if writes and is_elsewhere(out):
                    from setclip_cli.remote.work import written

                    given.arguments[writes] = stack.enter_context(written(parse_place(str(out))))
                return function(*given.args, **given.kwargs)

        return run

    return decorate


def brought(value: Any) -> Any:
    """The same value with the local copy of each place that it names."""
    if is_elsewhere(value):
        from setclip_cli.remote.copies import local_path

        return local_path(value)
    if isinstance(value, str):
        name, _, place = value.partition("=")
        return f"{name}={brought(place)}" if is_elsewhere(place) else value
    if isinstance(value, list | tuple):
        return type(value)(map(brought, value))
    if isinstance(value, Options) and is_dataclass(value):
        return replace(value, **{name: brought(part) for name, part in _paths_of(value).items()})
    return value


def _brought_in_part(given: str, arguments: dict[str, Any], needed: Callable[[Any, str], bool]) -> Any:
    from setclip_cli.remote.copies import copy_of

    options = next((value for value in arguments.values() if isinstance(value, Options)), None)
    return copy_of(parse_place(given), lambda name: needed(options, name))


def _paths_of(options: Options) -> dict[str, Any]:
    """The options that are paths and name places. Other options may well look like one, such as the name of an encoder.

    Raises:
        UsageError: one of them is a file to write.
    """
    found = {}
    for name, (kind, flag) in options_of(type(options)).items():
        value = getattr(options, name)
        if Path in get_args(kind) and is_elsewhere(value):
            if name in _WRITTEN:
                raise here_only(argument(name, flag.names(name)), value)
            found[name] = value
    return found


def _names_a_place(value: Any) -> bool:
    if isinstance(value, Options) and is_dataclass(value):
        return bool(_paths_of(value))
    if isinstance(value, list | tuple):
        return any(map(_names_a_place, value))
    if is_cut(value):
        return True
    return isinstance(value, str) and (is_elsewhere(value) or is_elsewhere(value.partition("=")[2]))


def _refuse_cut(name: str, value: Any) -> None:
    for one in value if isinstance(value, list | tuple) else [value]:
        if is_cut(one):
            raise here_only(argument(name), one)


def _refuse_one_in_the_other(arguments: dict[str, Any], reads: tuple[str, ...], out: Any) -> None:
    """Refuses an output that would become part of what is read, or the other way around."""
    if not is_elsewhere(out):
        return
    target = parse_place(str(out))
    for name in reads:
        value = arguments.get(name)
        for one in value if isinstance(value, list | tuple) else [value]:
            text = str(one)
            text = text if is_elsewhere(text) else text.partition("=")[2]
            if is_elsewhere(text) and isinstance(one, str):
                source = parse_place(text)
                if source.holds(target) or target.holds(source):
                    raise UsageError(
                        f"{argument('out')} {target.shown}: and {source.shown}, which is read, are one in the other",
                        fix=f"choose {argument('out')} beside it, such as {source.shown}-out",
                    )
