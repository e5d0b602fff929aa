"""The one error a user can cause, and the exit codes every command shares."""

from __future__ import annotations

import re
from difflib import get_close_matches
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ARGUMENT = re.compile("\0([^\0\x1f]+)\x1f([^\0]+)\0")


class ExitCode(IntEnum):
    """What the shell sees. 1 is left to uncaught exceptions: a bug, with its traceback."""

    OK = 0
    BUG = 1
    USAGE = 2  # bad flag or bad recipe (2 is what Typer itself returns)
    DATA = 3  # missing, empty or corrupt input
    GATE = 4  # `evaluate --fail-under` not met
    INTERRUPTED = 130


class SetClipError(Exception):
    """A problem the user can fix by changing a file, a flag or a path.

    Args:
        problem: What was found and where; the path or the key comes first.
        fix: What to do about it, as a command where there is one.

    Both may name arguments through `argument`.
    """

    def __init__(self, problem: str, *, fix: str, exit_code: ExitCode = ExitCode.DATA) -> None:
        self._marked = (problem, fix)
        self.problem, self.fix = _ARGUMENT.sub(r"\1", problem), _ARGUMENT.sub(r"\1", fix)
        self.exit_code = exit_code
        super().__init__(f"{self.problem}\n  fix: {self.fix}")

    def for_command_line(self) -> str:
        """The message with flags where it names arguments."""
        problem, fix = (_ARGUMENT.sub(r"\2", part) for part in self._marked)
        return f"{problem}\n  fix: {fix}"

    def __reduce__(self) -> tuple[Callable[..., SetClipError], tuple[str, str, ExitCode]]:
        """Survives the way back from a worker process, which keyword-only arguments alone would not."""
        return _rebuilt, (*self._marked, self.exit_code)


class UsageError(SetClipError):
    """A `SetClipError` about an argument or a recipe: exit code 2."""

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem, fix=fix, exit_code=ExitCode.USAGE)


def _rebuilt(problem: str, fix: str, exit_code: ExitCode) -> SetClipError:
    return SetClipError(problem, fix=fix, exit_code=exit_code)


def argument(name: str, flag: str | None = None) -> str:
    """An argument in a message: ``name`` in Python, its flag (the name with dashes by default) on the command line."""
    return f"\0{name}\x1f{flag or '--' + name.replace('_', '-')}\0"


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the known word closest to ``word``, or an empty string."""
    by_lower_case = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), by_lower_case, n=1)
    return f" (did you mean {by_lower_case[close[0]]!r}?)" if close else ""


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its kind when it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
