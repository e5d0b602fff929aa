"""The flags of a command, made of its options class."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from types import GenericAlias
from typing import Annotated, Any, get_args, get_origin

import typer

from setclip_cli.options import Flag, Options, options_of


def with_options(kind: type[Options]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command a flag for each field of ``kind``; it gets the filled-in object as its argument ``options``."""
    parts = options_of(kind)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [each.replace(kind=each.KEYWORD_ONLY) for each in own if each.name != "options"]
        at = next((place for place, each in enumerate(parameters) if each.name == "as_json"), len(parameters))
        parameters[at:at] = [_parameter(field, *parts[field.name]) for field in fields(kind)]  # type: ignore[arg-type]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in parts}
            command(**given, options=kind(**{name: _plain(value) for name, value in chosen.items()}))

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _parameter(field: Any, kind: Any, flag: Flag) -> inspect.Parameter:
    repeated = get_origin(kind) is tuple and flag.parse is None
    default = field.default if field.default is not MISSING else field.default_factory()
    settings: dict[str, Any] = {"help": flag.help, "metavar": flag.metavar}
    if flag.parse is not None:
        settings["parser"] = _parser(flag.parse, flag.metavar)
        default = ",".join(default) if isinstance(default, tuple) else default
        kind = str | None if default is None else str
    else:
        settings |= {"min": flag.least, "max": flag.most}
    item: Any = GenericAlias(list, get_args(kind)[:1]) if repeated else kind
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=list(default) if repeated else default,
        annotation=Annotated[item, typer.Option(flag.names(field.name), **settings)],
    )


def _parser(parse: Callable[[str], Any], metavar: str | None) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    read.__name__ = metavar or parse.__name__
    return read


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
