"""The installed program: it is ready for signals before anything large is imported, and it leaves no process behind."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from setclip_cli.cli import received

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE_S = 2.0
_SLOWER_BY_S = 60.0  # than another process of a group; a busy machine takes long to import torch
_COMPUTING = "setclip-"  # names of our threads that compute begin so
_code = 1  # with which the process ends; 1 until a command has ended
_ended = False  # whether the command has ended by itself


def main() -> None:
    """Runs a command. Ctrl-C, SIGTERM and SIGHUP end it with 130, 143 and 129: finished work stays, no child does.

    A second signal ends it at once. A signal that comes while a library is imported, and that the library turns into
    an error of its own, is a signal too.
    """
    global _code
    _open_standard_streams()
    atexit.register(_leave_threads)  # the first to be registered is the last to be called
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in `nohup setclip ...`
            signal.signal(number, _stop)
    started, code = False, 0
    try:
        from setclip_cli.cli.app import main as run
        from setclip_cli.cli.json_object import is_first_process

        started = True
        code = _code_of(run)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as end:  # a signal outside of the command
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        if not received.signal_number:
            raise
        code = 128 + received.signal_number
    if started and code and code - 128 not in _SIGNALS and not is_first_process():
        _let_the_first_process_tell()
    if code - 128 in _SIGNALS:
        received.signal_number = code - 128  # a further signal ends it at once
        _tell(code, started)
        _end_children()
        watch = threading.Timer(_PATIENCE_S, os._exit, (code,))
        watch.daemon = True
        watch.start()  # threads that wait for a server, for instance, are not waited for
    _code = code
    sys.exit(code)


def _leave_threads() -> None:
    """Ends the process here if a thread of ours still computes, after all else has been put in order.

    The interpreter would kill such a thread amidst the C++ code of a library, and that aborts the process.
    """
    if not any(thread.name.startswith(_COMPUTING) for thread in threading.enumerate()):
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_code)


def _code_of(run: Callable[[], None]) -> int:
    """The exit code of a command. A signal changes nothing any more once the command has ended by itself."""
    global _ended
    code = 0
    try:
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    _ended = code - 128 not in _SIGNALS
    return code


def _let_the_first_process_tell() -> None:
    """Waits until torchrun ends this process, which is not the first of a group and prints nothing on stdout.

    All processes of a group meet the same error, and torchrun ends the others when one of them is gone. If this was
    the first to meet it, that would be before process 0 could say what is wrong.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    signal.sigtimedwait(_SIGNALS, _SLOWER_BY_S)


def _open_standard_streams() -> None:
    """Opens the streams that the caller has closed (``2>&-``), as /dev/null.

    Else the next file that is opened would get the number of such a stream, and what a library prints would go into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _stop(number: int, _frame: FrameType | None) -> None:
    if _ended:
        return
    if received.signal_number:
        _end_now(128 + number)
    received.signal_number = number
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _tell(code: int, started: bool) -> None:
    """Says what the command itself would say, if it was stopped before it could."""
    from setclip_cli.cli.json_object import is_first_process
    from setclip_cli.cli.stops import how_to_go_on, tell, what_happened

    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    tell(code, command)
    if "--json" in sys.argv and not started and is_first_process():
        error = {"message": what_happened(code), "fix": how_to_go_on(command), "exit_code": code}
        with suppress(OSError):
            print(json.dumps({"error": error}, sort_keys=True), flush=True)


def _end_now(code: int) -> NoReturn:
    """Ends this process and its children without waiting for anything."""
    _end_children()
    os._exit(code)


def _end_children() -> None:
    if (processes := sys.modules.get("multiprocessing")) is not None:
        for child in processes.active_children():
            child.terminate()
