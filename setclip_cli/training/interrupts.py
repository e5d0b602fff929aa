"""Stops on Ctrl-C and SIGTERM between two steps, never within one, so that the state of a whole step is saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType


class BetweenSteps:
    """Holds signals back until `stop` is called. A second signal is not held back: it stops within a step.

    Python delivers signals to the main thread only; in other threads this changes nothing.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, object] = {}

    @property
    def wanted(self) -> bool:
        """Whether a signal has come."""
        return self._received is not None

    def stop(self) -> NoReturn:
        """Raises KeyboardInterrupt, or SystemExit with 128 + the signal's number, for the signal that has come."""
        assert self._received is not None
        _stop(self._received)

    def __enter__(self) -> BetweenSteps:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as in `nohup setclip ...`
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() itself returned

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None:
            _stop(number)
        self._received = number
        with suppress(OSError):  # not `note`: the signal may have come in the middle of one
            os.write(2, b"stopping after this step\n")


def _stop(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
