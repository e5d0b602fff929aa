"""Serves an application until it is stopped, on this computer alone if nothing else is asked for."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
import webbrowser
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from setclip_cli.errors import SetClipError, UsageError, argument, cause_of
from setclip_cli.web.local_app import BEGAN, BODY_S, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from fastapi import FastAPI

LOOPBACK = "127.0.0.1"
CONNECTIONS = 64
PATIENCE_S = 300.0  # for one request of a page of ours
_GRACE_S = 2  # for answers that are on their way when the server stops
_LOOK_S = 0.5  # between two looks at a connection


class _ImpatientProtocol(H11Protocol):
    """HTTP as uvicorn speaks it, with a client that neither asks nor reads put out.

    uvicorn waits for ever for the first request of a connection and for a client that does not read its answer, and
    such connections count among those that it allows.
    """

    patience_s = PATIENCE_S
    arrival_s = BODY_S
    most = CONNECTIONS

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._app, self.app = self.app, self._answer
        self._begin()
        self.loop.call_later(_LOOK_S, self._look)
        others = [one for one in self.connections if isinstance(one, _ImpatientProtocol) and one is not self]
        if len(others) >= self.most and (waiting := [one for one in others if not one.at_work()]):
            min(waiting, key=lambda one: one.began)._put_out("Too many connections are open.", 503)

    def data_received(self, data: bytes) -> None:
        if self.cycle is not None and not self.at_work() and self._has_sent_nothing():
            self._begin()  # the first bytes of a further request: from now on the time runs
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._begin()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._say(msg, 400)

    def at_work(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _begin(self) -> None:
        self.began = self.loop.time()
        self.app_state = {**self.app_state, BEGAN: self.began}  # each request gets a copy

    def _has_sent_nothing(self) -> bool:
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request, if not too many others are being answered."""
        if len(self.connections) > self.most:
            await refused("Too many connections are open.", 503, close=True)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _look(self) -> None:
        closing = self.transport.is_closing()
        if closing and not self.transport.get_write_buffer_size():
            return
        waited = self.loop.time() - self.began
        if waited > self.patience_s:
            self.transport.abort()
            return
        if waited > self.arrival_s and not (closing or self.at_work() or self.transport.get_write_buffer_size()):
            self._put_out(f"The request did not arrive within {self.arrival_s:g} s.", 408)
        self.loop.call_later(_LOOK_S, self._look)

    def _put_out(self, why: str, status: int) -> None:
        """Closes a connection whose request has not arrived. One that was answered before may just have no other."""
        if self.conn.our_state is h11.IDLE and (self.cycle is None or not self._has_sent_nothing()):
            self._say(why, status)
        else:
            self.transport.close()

    def _say(self, why: str, status: int) -> None:
        """Writes an answer to what is no whole request, and closes the connection."""
        answer = refused(why, status, close=True)
        events = (
            h11.Response(status_code=status, headers=answer.raw_headers, reason=HTTPStatus(status).phrase.encode()),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


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
        arrival_s: float = BODY_S,
        connections: int = CONNECTIONS,
    ) -> None:
        """A server of an application.

        Args:
            ready: Is called once, as soon as requests are answered.
            patience_s: Seconds that one request may take in all, from its first byte until its answer has been read.
            arrival_s: Seconds for the head of a request to arrive: of the first, from the connection on.
            connections: Open at a time. For a further one the one is closed that has waited longest without a
                request; if all are being answered, it gets 503.
        """
        super().__init__(
            uvicorn.Config(
                app,
                http=type(
                    "_Protocol",
                    (_ImpatientProtocol,),
                    {"patience_s": patience_s, "arrival_s": arrival_s, "most": connections},
                ),
                log_level="warning",
                access_log=False,  # addresses hold the token
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=2 * _GRACE_S,
            )
        )
        self.ready = ready
        self.stopped_by: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(_GRACE_S, self._end_requests)
        await super().shutdown(sockets)

    def _end_requests(self) -> None:
        """Ends what is not answered yet; the application says so to the clients (see `local_app`)."""
        for task in self.server_state.tasks:
            task.cancel()

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
