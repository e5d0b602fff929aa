"""The promise of ``--json``: one object on stdout and nothing else there, however the command ends.

While the command runs, whatever it or a library prints goes to stderr. When it ends, the object is printed: the result;
or ``{"error": {"message", "fix", "exit_code"}}``; or both in one, if the result is there but a gate was missed. Under
torchrun the first process prints it.
"""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import sys
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, TextIO

from setclip_cli.cli.stops import STOPPED, how_to_go_on, what_happened
from setclip_cli.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FULL_STDOUT = "send the output to a file on a disk with space"

_result: dict[str, Any] = {}  # of the command that runs: there is one in a process
_error: dict[str, Any] = {}


def is_wanted(words: Sequence[str]) -> bool:
    """Whether ``--json`` is among the words of a command line, even if the rest of them is wrong."""
    words = list(words)
    options = words[: words.index("--")] if "--" in words else words
    return any(word == "--json" or word.startswith("--json=") for word in options)


def is_first_process() -> bool:
    """False in the other processes that torchrun started: one of them speaks for all."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def keep_result(result: dict[str, Any]) -> None:
    """Keeps the object of a command that went well. Raises ValueError for what JSON cannot hold, such as NaN."""
    json.dumps(result, allow_nan=False)
    _result.clear()
    _result.update(result)


def keep_error(message: str, fix: str, code: int) -> None:
    """Keeps what went wrong."""
    _error.update(message=message, fix=fix, exit_code=int(code))


@contextmanager
def one_object_on_stdout() -> Iterator[None]:
    """Runs a command; prints its object when it ends, whether by itself, by an error, a signal or a bug."""
    _result.clear()
    _error.clear()
    code: object = ExitCode.OK
    shown = io.StringIO()  # what was printed for a person: all there is after --help
    with _stdout_aside(shown) as write:
        try:
            yield
        except SystemExit as end:
            code = end.code
            raise
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
            raise
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
            keep_error(message, "this is a bug in setclip: please report it, with the traceback", ExitCode.BUG)
            raise
        finally:
            if is_first_process():
                _print(_the_object(code, shown.getvalue()), write)


def _the_object(code: object, shown: str) -> dict[str, Any]:
    if not _error and isinstance(code, int) and code in STOPPED:
        keep_error(what_happened(code), how_to_go_on(None), code)
    if _error:
        return {**_result, "error": _error}
    return _result or {"help": shown}


@contextmanager
def _stdout_aside(shown: io.StringIO) -> Iterator[Callable[[bytes], object]]:
    """Sends to stderr what Python code, C code and other processes print; yields what writes to the real stdout."""
    stdout: TextIO | None = sys.stdout
    stderr: TextIO | None = sys.stderr
    replaced = stdout is not sys.__stdout__ or stderr is not sys.__stderr__
    if replaced or stdout is None or stderr is None:
        with redirect_stdout(_Aside(shown)):  # a closed stdout, a notebook or a test: there is nothing to turn aside
            yield lambda content: stdout and stdout.write(content.decode())
        return
    stdout.flush()
    descriptor = stdout.fileno()
    real = os.dup(descriptor)
    os.dup2(stderr.fileno(), descriptor)
    try:
        with redirect_stdout(_Aside(shown)):
            yield functools.partial(os.write, real)
    finally:
        with suppress(OSError):
            stdout.flush()  # of who kept the stream from before
        os.dup2(real, descriptor)
        os.close(real)


class _Aside(io.TextIOBase):
    """A stdout whose text goes to stderr; its beginning is kept."""

    encoding = "utf-8"

    def __init__(self, shown: io.StringIO) -> None:
        self._shown = shown

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._shown.tell() < 1 << 16:
            self._shown.write(text)
        print(text, end="", file=sys.stderr)
        return len(text)

    def flush(self) -> None:
        print(end="", file=sys.stderr, flush=True)


def _print(content: dict[str, Any], write: Callable[[bytes], object]) -> None:
    stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # half an object is none
    try:
        remaining = memoryview((json.dumps(content, sort_keys=True, allow_nan=False) + "\n").encode())
        while remaining:
            written = write(bytes(remaining))
            remaining = remaining[written if isinstance(written, int) and written else len(remaining) :]
    except BrokenPipeError:
        sys.exit(ExitCode.BUG)
    except OSError as error:
        sys.stderr.write(f"error: stdout: cannot be written ({error.strerror})\n  fix: {FULL_STDOUT}\n")
        sys.exit(ExitCode.DATA)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
