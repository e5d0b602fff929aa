"""The one error a user can cause, and the exit codes every command shares."""

from __future__ import annotations

from difflib import get_close_matches
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


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
    """

    def __init__(self, problem: str, *, fix: str, exit_code: ExitCode = ExitCode.DATA) -> None:
        super().__init__(f"{problem}\n  fix: {fix}")
        self.problem = problem
        self.fix = fix
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Callable[..., SetClipError], tuple[str, str, ExitCode]]:
        """Survives the way back from a worker process, which keyword-only arguments alone would not."""
        return _rebuilt, (self.problem, self.fix, self.exit_code)


def _rebuilt(problem: str, fix: str, exit_code: ExitCode) -> SetClipError:
    return SetClipError(problem, fix=fix, exit_code=exit_code)


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the known word closest to ``word``, or an empty string."""
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its kind when it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
