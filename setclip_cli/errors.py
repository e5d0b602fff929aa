"""The one error a user can cause, the exit codes of all commands, and the translation of other libraries' errors."""

from __future__ import annotations

import errno
import re
from contextlib import contextmanager
from difflib import get_close_matches
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

from setclip_cli.places import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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

    Both may name arguments through `argument`. Local copies of files elsewhere get their names there.
    """

    names_places: ClassVar[bool] = True

    def __init__(self, problem: str, *, fix: str, exit_code: ExitCode = ExitCode.DATA) -> None:
        self._marked = (in_words(problem), in_words(fix)) if self.names_places else (problem, fix)
        problem, fix = self._marked
        self.problem, self.fix = _ARGUMENT.sub(r"\1", problem), _ARGUMENT.sub(r"\1", fix)
        self.exit_code = exit_code
        super().__init__(f"{self.problem}\n  fix: {self.fix}")

    def for_command_line(self) -> tuple[str, str]:
        """Problem and fix, with flags where they name arguments."""
        problem, fix = (_ARGUMENT.sub(r"\2", part) for part in self._marked)
        return problem, fix

    def marked(self) -> tuple[str, str]:
        """Problem and fix as they were given: for another error about the same."""
        return self._marked

    def __reduce__(self) -> tuple[Callable[..., SetClipError], tuple[type[SetClipError], str, str, ExitCode]]:
        """Survives the way back from a worker process, which keyword-only arguments alone would not."""
        return _rebuilt, (type(self), *self._marked, self.exit_code)


class UsageError(SetClipError):
    """A `SetClipError` about an argument or a recipe: exit code 2."""

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem, fix=fix, exit_code=ExitCode.USAGE)


class AccountingError(Exception):
    """Records are missing in a count that must add up. Only a mistake in this program can cause it: exit code 1."""


def _rebuilt(kind: type[SetClipError], problem: str, fix: str, exit_code: ExitCode) -> SetClipError:
    error = kind.__new__(kind)
    SetClipError.__init__(error, problem, fix=fix, exit_code=exit_code)
    return error


def argument(name: str, flag: str | None = None) -> str:
    """An argument in a message: ``name`` in Python, its flag (the name with dashes by default) on the command line."""
    return f"\0{name}\x1f{flag or '--' + name.replace('_', '-')}\0"


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the known word closest to ``word``, or an empty string."""
    by_lower_case = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), by_lower_case, n=1)
    return f" (did you mean {by_lower_case[close[0]]!r}?)" if close else ""


@contextmanager
def translated(
    place: object, *kinds: type[Exception], found: str, fix: str, exit_code: ExitCode = ExitCode.DATA
) -> Iterator[None]:
    """Turns what another library raises in the block into a `SetClipError`. It stands at the edges of the package.

    An exception with a cause that shows by itself, such as a missing permission or too little memory, gets the message
    and the fix of that cause (see `cause_of`), whether or not its kind is among ``kinds``. A `SetClipError` stays.

    Args:
        place: What was read, written or started: a path, or a few words. The message begins with it.
        kinds: What the library raises for input that a user can repair.
        found: What is wrong then, such as ``"cannot be read as Parquet"``. What the library says follows in brackets.
        fix: What to do about it then.
    """
    try:
        yield
    except SetClipError:
        raise
    except Exception as error:
        cause = cause_of(error)
        if cause is None and not isinstance(error, kinds):
            raise
        problem, advice = cause or (f"{found} ({first_line(error)})", fix)
        raise SetClipError(f"{place}: {problem}", fix=advice, exit_code=exit_code) from error


def cause_of(error: BaseException) -> tuple[str, str] | None:
    """What was found and a fix, for an exception that says so by itself wherever it comes from; None for any other."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return (
            f"this machine has too little free memory ({first_line(error)})",
            "stop other programs, or use a machine with more memory",
        )
    if isinstance(error, UnicodeEncodeError) and any(0xD800 <= ord(letter) <= 0xDFFF for letter in error.object):
        return (
            f"the name {error.object[:80]} is not UTF-8",
            "rename that file or folder so that its name is UTF-8",
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of Path.resolve, before Python 3.13
        return _CAUSES[errno.ELOOP]
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "the path holds a NUL character", "give a path without it"
    return _CAUSES.get(error.errno) if isinstance(error, OSError) and error.errno is not None else None


# What PyTorch, Arrow and NumPy say; only their words tell these errors from others of the same type.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Unable to allocate", "malloc of size")
_CAUSES: dict[int, tuple[str, str]] = {
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "check the path"),
    errno.EISDIR: ("is a folder, not a file", "give the path of a file in it"),
    errno.EACCES: ("this user has no permission for it", "change its permissions (chmod), or choose another path"),
    errno.EPERM: ("this user has no permission for it", "change its permissions (chmod), or choose another path"),
    errno.ELOOP: (
        "is a symbolic link that leads back to itself",
        "remove the link, or give the path of the file itself",
    ),
    errno.ENAMETOOLONG: ("the name is longer than the file system takes", "give a shorter path"),
    errno.EROFS: ("the file system is read-only", "choose a folder that you can write to"),
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
    errno.EDQUOT: ("your quota of disk space is used up", "free some space and run the same command again"),
    errno.EMFILE: (
        "this process has too many files open",
        "raise the limit (ulimit -n), and run the same command again",
    ),
    errno.ENFILE: ("this machine has too many files open", "stop other programs, and run the same command again"),
    errno.ENOMEM: ("this machine has too little free memory", "stop other programs, or use a machine with more memory"),
    errno.EAGAIN: (
        "this machine starts no more processes or threads",
        "stop other programs, or raise the limit (ulimit -u)",
    ),
    errno.EIO: (
        "the disk or the network drive failed",
        "check the disk; copy the file to another one if it can be read",
    ),
    errno.ESTALE: ("the network drive lost the file", "mount the drive again, and run the same command again"),
}


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its kind when it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
