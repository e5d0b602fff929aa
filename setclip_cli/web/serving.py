"""Serves an application until it is stopped, on this computer alone if nothing else is asked for."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
import webbrowser
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from setclip_cli.errors import SetClipError, UsageError, argument, cause_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from fastapi import FastAPI

LOOPBACK = "127.0.0.1"
CONNECTIONS = 64
PATIENCE_S = 300.0  # for one request of a page of ours
_GRACE_S = 2  # for answers that are on their way when the server stops
_LINGER_S = 2  # between two looks at a connection


class _ImpatientProtocol(H11Protocol):
    """HTTP as uvicorn speaks it, with a client that neither asks nor reads put out.

    uvicorn waits for ever for the first request of a connection and for a client that does not read its answer, and
    such connections count among those that it allows.
    """

    patience_s = PATIENCE_S

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._last = self.loop.time()
        self.loop.call_later(_LINGER_S, self._look)

    def data_received(self, data: bytes) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._last = self.loop.time()  # the first bytes of a request: from now on the time runs
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._last = self.loop.time()
        super().on_response_complete()

    def _look(self) -> None:
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            return
        if self.loop.time() - self._last > self.patience_s:
            self.transport.abort()
            return
        self.loop.call_later(_LINGER_S, self._look)


def take_port(port: int, host: str = LOOPBACK) -> socket.socket:
    """A socket that listens, on the loopback interface unless told otherwise; port 0 takes any free port.

    It is taken before the work that needs time, so that a port in use is said at once.

    Raises:
        UsageError: another program has the port, this user may not take it, or the host is not this computer.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise _not_here(host) from error
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that has just ended
    shown = f"{argument('port')} {port}"
    try:
        taken.bind(address)
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
        if error.errno == errno.EADDRNOTAVAIL:
            raise _not_here(host) from error
        found, fix = cause_of(error) or (os.strerror(error.errno or 0), free)
        raise SetClipError(f"{shown}: {found}", fix=fix) from error
    return taken


def _not_here(host: str) -> UsageError:
    return UsageError(
        f"{argument('host')} {host}: is not an address of this computer",
        fix=f"leave {argument('host')} out to serve to this computer alone, or give 0.0.0.0 for all its addresses",
    )


def port_of(taken: socket.socket) -> int:
    port: int = taken.getsockname()[1]
    return port


class LocalServer(uvicorn.Server):
    """A server that Ctrl-C ends in the ordinary way; other signals reach the command after it has closed."""

    def __init__(
        self,
        app: FastAPI,
        *,
        ready: Callable[[], None] = lambda: None,
        patience_s: float = PATIENCE_S,
        connections: int = CONNECTIONS,
    ) -> None:
        """A server of an application.

        Args:
            ready: Is called once, as soon as requests are answered.
            patience_s: Seconds that one request may take in all, from its first byte until its answer has been read.
            connections: Open at a time; further ones are answered with 503.
        """
        super().__init__(
            uvicorn.Config(
                app,
                http=type("_Protocol", (_ImpatientProtocol,), {"patience_s": patience_s}),
                log_level="warning",
                access_log=False,  # addresses hold the token
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=_GRACE_S,
                limit_concurrency=connections,
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
