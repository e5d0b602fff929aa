"""What every command shares in what it prints."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import typer

from setclip_cli.console import emit_json, visible_lines

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


class Result(Protocol):
    """What a command's function returns."""

    def as_json(self) -> dict[str, Any]: ...

    def summary(self) -> str: ...


def show(result: Result, as_json: bool) -> None:
    """Prints the result as one JSON object, or as text for a person."""
    emit_json(result.as_json()) if as_json else typer.echo(visible_lines(result.summary()))
