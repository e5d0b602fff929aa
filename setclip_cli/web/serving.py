"""Serves an application on this computer alone, until it is stopped."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
import webbrowser
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import uvicorn

from setclip_cli.errors import SetClipError, UsageError, argument, cause_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from fastapi import FastAPI

_GRACE_S = 2  # for answers that are on their way when the server stops


def take_port(port: int) -> socket.socket:
    """A socket on the loopback interface that listens; port 0 takes any free port.

    It is taken before the work that needs time, so that a port in use is said at once.

    Raises:
        UsageError: another program has the port, or this user may not take it.
    """
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that has just ended
    shown = f"{argument('port')} {port}"
    try:
        taken.bind(("127.0.0.1", port))
        taken.listen(128)
    except OSError as error:
        taken.close()
        free = f"leave {argument('port')} out to take any free port"
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"{shown}: another program uses this port", fix=f"choose another port, or {free}"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UsageError(
                f"{shown}: this user may not use it", fix=f"choose a port from 1024 on, or {free}"
            ) from error
        found, fix = cause_of(error) or (os.strerror(error.errno or 0), free)
        raise SetClipError(f"{shown}: {found}", fix=fix) from error
    return taken


def port_of(taken: socket.socket) -> int:
    port: int = taken.getsockname()[1]
    return port


class LocalServer(uvicorn.Server):
    """A server that Ctrl-C ends in the ordinary way; other signals reach the command after it has closed."""

    def __init__(self, app: FastAPI, *, ready: Callable[[], None] = lambda: None) -> None:
        """``ready`` is called once, as soon as requests are answered."""
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # addresses hold the token
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=_GRACE_S,
                limit_concurrency=64,
            )
        )
        self.ready = ready
        self.stopped_by: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    def stop(self) -> None:
        """Ends the server after the answers that are on their way."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.stopped_by not in (None, signal.SIGINT):
            signal.raise_signal(self.stopped_by)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit, self.stopped_by = True, number


def open_in_browser(address: str) -> None:
    """Opens the address in the user's browser, if there is a desktop; else the user opens it by hand."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return  # a browser for the terminal would take it over

    def show() -> None:
        with suppress(webbrowser.Error, OSError):
            webbrowser.open(address)

    threading.Thread(target=show, daemon=True).start()
