"""What every command shares in what it prints."""

from __future__ import annotations

import errno
import io
import sys
from typing import Annotated, Any, Protocol

import typer

from setclip_cli.cli.json_object import FULL_STDOUT, is_first_process, keep_result
from setclip_cli.console import visible_lines
from setclip_cli.errors import SetClipError
from setclip_cli.places import in_words

BROKEN_PIPE = 141  # what a shell shows for a program that SIGPIPE ended

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


class Result(Protocol):
    """What a command's function returns."""

    def as_json(self) -> dict[str, Any]: ...

    def summary(self) -> str: ...


def show(result: Result, as_json: bool) -> None:
    """Gives the result as one JSON object, or as text for a person."""
    if as_json:
        keep_result(_with_names(result.as_json()))
    elif is_first_process():
        say(visible_lines(in_words(result.summary())))


def _with_names(content: Any) -> Any:
    """JSON in which local copies of files elsewhere have their names there."""
    if isinstance(content, dict):
        return {key: _with_names(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_names(value) for value in content]
    return in_words(content) if isinstance(content, str) else content


def say(text: str, *, newline: bool = True) -> None:
    """Prints text that is safe to show.

    Raises:
        SetClipError: stdout cannot be written, such as a file on a full disk.
    """
    try:
        typer.echo(text, nl=newline)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has enough, such as `head`
            sys.stdout = io.StringIO()  # Python would write the rest when it ends
            raise typer.Exit(BROKEN_PIPE) from error
        raise SetClipError(f"stdout: cannot be written ({error.strerror})", fix=FULL_STDOUT) from error
