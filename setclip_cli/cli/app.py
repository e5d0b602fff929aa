"""The Typer app: its commands in the order of the help, and what all of them do on an error or a signal."""

from __future__ import annotations

import errno
import io
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from setclip_cli.cli import received
from setclip_cli.cli.align import align
from setclip_cli.cli.check_pairs import check_pairs
from setclip_cli.cli.doctor import doctor
from setclip_cli.cli.embed import embed
from setclip_cli.cli.evaluate import evaluate
from setclip_cli.cli.export import export
from setclip_cli.cli.ingest import ingest
from setclip_cli.cli.inspect import inspect
from setclip_cli.cli.json_object import is_wanted, keep_error, one_object_on_stdout
from setclip_cli.cli.label import label
from setclip_cli.cli.match import match
from setclip_cli.cli.push import pull, push
from setclip_cli.cli.quickstart import quickstart
from setclip_cli.cli.search import search
from setclip_cli.cli.serve import serve
from setclip_cli.cli.shipped import manifests, recipes, studies, tasks
from setclip_cli.cli.stops import STOPPED, how_to_go_on, tell, what_happened
from setclip_cli.cli.study import study
from setclip_cli.cli.suggest import suggest
from setclip_cli.cli.verify import verify
from setclip_cli.cli.view import view
from setclip_cli.console import visible_lines, visible_list
from setclip_cli.errors import ExitCode, SetClipError, UsageError, cause_of
from setclip_cli.options import refuse_empty
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_WORDS = "setclip.words"


class Commands(typer.core.TyperGroup):
    """The one place where an error or an interrupt becomes a message, an exit code and, with --json, an object."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        with one_object_on_stdout() if is_wanted(words) else nullcontext():
            return super().main(words, *more, **extra)

    def make_context(self, *given: Any, **extra: Any) -> Any:
        with _usage_told():
            return super().make_context(*given, **extra)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _usage_told(), _last_edge():
                _refuse_empty_words(ctx.meta[_WORDS])
                self._refuse_repeated_options(ctx.meta[_WORDS])
                _require_working_folder()
                return super().invoke(ctx)
        except SetClipError as error:
            if received.signal_number:  # a library made an error of its own of it
                _stopped(128 + received.signal_number, ctx.invoked_subcommand)
                raise typer.Exit(128 + received.signal_number) from error
            problem, fix = error.for_command_line()
            keep_error(problem, fix, error.exit_code)
            typer.echo(f"error: {visible_list(problem)}\n  fix: {visible_list(fix)}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            _stopped(int(ExitCode.INTERRUPTED), ctx.invoked_subcommand)
            raise typer.Exit(ExitCode.INTERRUPTED) from interrupt
        except SystemExit as end:
            if isinstance(end.code, int) and end.code in STOPPED:
                _stopped(end.code, ctx.invoked_subcommand)
            raise

    def _refuse_repeated_options(self, words: list[str]) -> None:
        """Refuses an option with one value that is given twice: the first value would be ignored."""
        options = words[: words.index("--")] if "--" in words else words
        given = [word.partition("=")[0] for word in options if word.startswith("--")]
        command = next((self.commands[word] for word in options if word in self.commands), None)
        for parameter in command.params if command else ():
            if parameter.multiple or getattr(parameter, "is_flag", False):
                continue
            for flag in parameter.opts:
                if given.count(flag) > 1:
                    raise UsageError(
                        f"{flag}: is given {given.count(flag)} times, and takes one value", fix="give it once"
                    )


def _refuse_empty_words(words: list[str]) -> None:
    """Refuses an empty text on the command line. No option takes one, and an empty path would be the current folder."""
    for before, word in zip(["", *words], words, strict=False):
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if (equals or not flag) and not value.strip():
            refuse_empty(value, flag or (before if before.startswith("--") else "an argument"))


def _stopped(code: int, command: str | None) -> None:
    """Says that a signal has stopped a command, and how it goes on."""
    keep_error(what_happened(code), how_to_go_on(command), code)
    tell(code, command)


def _require_working_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the working folder has been removed", fix="change to a folder that is there (cd)") from error


@contextmanager
def _last_edge() -> Iterator[None]:
    """Translates what no edge before has, if its cause is the machine or a name that the user gave, not a bug of ours.

    A file that is missing, or a folder in its place, is left: that may well be a bug.
    """
    try:
        yield
    except (OSError, MemoryError, UnicodeEncodeError, RuntimeError, ValueError) as error:
        cause = None if getattr(error, "errno", None) in _MAYBE_A_BUG else cause_of(error)
        if cause is None:
            raise
        place = getattr(error, "filename", None)
        raise SetClipError(f"{place}: {cause[0]}" if place else cause[0], fix=cause[1]) from error


_MAYBE_A_BUG = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def _usage_told() -> Iterator[None]:
    """Makes safe what Typer says about a wrong command line, which may name files; it prints it and exits with 2."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # what all of Typer's own errors have
            for name, text in vars(error).items():
                if isinstance(text, str):
                    setattr(error, name, visible_lines(text))
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "setclip"
            keep_error(error.format_message(), f"{command} --help explains the options", ExitCode.USAGE)
        raise


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"setclip {__version__}")
        raise typer.Exit


@app.callback()
def setclip(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Learn to compare two kinds of data, such as images and captions, from few known pairs or none.

    ingest builds a DATASET from raw files, align trains on it, embed writes embeddings, evaluate a report.
    `setclip quickstart` shows all four on real satellite imagery.
    """


for command in (
    ingest,
    suggest,
    label,
    inspect,
    check_pairs,
    align,
    embed,
    search,
    serve,
    view,
    match,
    evaluate,
    export,
    push,
    pull,
    study,
    verify,
    quickstart,
    doctor,
):  # the order of the help
    app.command()(command)
for name, group in {"recipes": recipes, "manifests": manifests, "studies": studies, "tasks": tasks}.items():
    app.add_typer(group, name=name)


def main() -> None:
    """Runs the command that the command line names; `program.main` has prepared for signals."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal that is not UTF-8
    app()
