"""Stops on Ctrl-C and SIGTERM between two steps, never within one, so that the state of a whole step is saved."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from setclip_cli.console import note

if TYPE_CHECKING:
    from types import FrameType


class BetweenSteps:
    """Holds signals back until `check` is called. A second signal is not held back.

    Python delivers signals to the main thread only; in other threads this changes nothing.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, object] = {}

    def check(self) -> None:
        """Raises KeyboardInterrupt, or SystemExit with 128 + the signal's number, when a signal has come."""
        if self._received is not None:
            _stop(self._received)

    def __enter__(self) -> BetweenSteps:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() itself returned

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None:
            _stop(number)
        self._received = number
        note("stopping after this step")


def _stop(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
