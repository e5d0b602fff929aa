"""The application of a local page: who may ask, what every answer carries, and errors in words."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import sys
import traceback
from contextlib import suppress
from http.cookies import SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response

from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from fastapi import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES = 64 << 10  # of a request to a page of ours: its answers are small
_DISCARDED_BYTES = 64 << 20  # of a body that is too large
BODY_S = 30.0  # for a request to arrive
BEGAN = "began"  # in the state of a request: when it began to arrive, by the clock of the event loop
PAGE = Path(__file__).parent / "page"  # what all pages share
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".html": "text/html"}
POLICY = (  # nothing comes from elsewhere, no script or style stands in the page itself, and no text becomes mark-up
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",  # another session may get the same port, and its row 7 is another picture
}


def new_token() -> str:
    return secrets.token_urlsafe(32)


def local_app(
    *,
    port: int,
    token: str | None,
    pages: Iterable[Path],
    app: FastAPI | None = None,
    body_bytes: int = BODY_BYTES,
    body_s: float = BODY_S,
    open_paths: Collection[str] = (),
    any_host: bool = False,
    policy: str = POLICY,
) -> FastAPI:
    """An application that answers only a browser or a program that knows the token.

    The address ``/?token=...`` gives the browser a cookie and leads to ``/``, so that the token does not stay in the
    address. A program sends the header ``Authorization: Bearer TOKEN`` instead.

    Args:
        port: Where it is served; requests to another host or port are refused, whatever name led here.
        token: What opens the page, from `new_token`. None lets in every program of this computer, but no page of
            another site.
        pages: Folders of files that belong to the page; each is served under its name, and ``index.html`` as ``/``.
        app: What is made a local page; default: a new one without a description of its requests.
        body_bytes: A request with a larger body is refused.
        body_s: Seconds within which a request has to arrive with its body.
        open_paths: Paths that need no token.
        any_host: Other computers may ask too, by whatever name this one has there. It needs a token.
        policy: What the browser lets the pages do (their Content Security Policy).
    """
    app = app or FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    files = {
        path.name: path.read_bytes() for folder in (PAGE, *pages) for path in sorted(folder.iterdir()) if path.is_file()
    }
    app.add_middleware(
        _Checks,
        port=port,
        token=token,
        body_bytes=body_bytes,
        body_s=body_s,
        open_paths=frozenset(open_paths),
        any_host=any_host,
        policy=policy,
    )

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return Response(files["index.html"], media_type=_TYPES[".html"])

    @app.get("/page/{name}", include_in_schema=False)
    def page(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "there is no such file")
        return Response(files[name], media_type=_TYPES[Path(name).suffix])

    @app.exception_handler(SetClipError)
    def problem(_request: Request, error: SetClipError) -> Response:
        problem, fix = error.for_command_line()
        return JSONResponse({"error": problem, "fix": fix}, status_code=500)

    @app.exception_handler(RequestValidationError)
    def misunderstood(_request: Request, _error: RequestValidationError) -> Response:
        return JSONResponse({"error": "the request is not one of this page", "fix": "reload the page"}, 422)

    @app.exception_handler(HTTPException)
    def refused(_request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail), "fix": "reload the page"}, error.status_code)

    return app


class _Checks:
    """Host, token, origin and size of each request; the headers of each answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        port: int,
        token: str | None,
        body_bytes: int,
        body_s: float,
        open_paths: frozenset[str],
        any_host: bool,
        policy: str,
    ) -> None:
        self.app = app
        self.headers = [
            (name.encode(), value.encode()) for name, value in {"content-security-policy": policy, **_HEADERS}.items()
        ]
        self.token = token
        self.hosts = None if any_host else {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.cookie = f"setclip-{port}"  # browsers send the cookies of all ports of a host
        self.body_bytes, self.body_s = body_bytes, body_s
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no WebSocket is served

        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self.headers]}
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the server stops
            if not started:
                await refused("The service is stopping.", 503, "ask again when it has been started again", close=True)(
                    scope, receive, send_with_headers
                )
        except Exception as error:  # a bug; what it says may name folders, and is for whoever started the server
            if started:
                raise
            traceback.print_exception(error, file=sys.stderr)
            await refused("setclip met an error that it did not expect.", 500)(scope, receive, send_with_headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        answer = self._refusal(scope, headers)
        if answer is None:
            try:
                now = asyncio.get_running_loop().time()
                async with asyncio.timeout_at(scope.get("state", {}).get(BEGAN, now) + self.body_s):
                    body = await _read_body(receive, self.body_bytes)
            except TimeoutError:
                answer = refused(f"The request did not arrive within {self.body_s:g} s.", 408, close=True)
            else:
                if body is not None:
                    await self.app(scope, _again(body, receive), send)
                    return
                answer = self._too_large()
        if answer.status_code == 413:
            await _discard(receive, self.body_s)
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        """The answer to a request that goes no further; None for one that may."""
        host = headers.get("host", "")
        if not host or (self.hosts is not None and host not in self.hosts):
            return refused("This page is served to 127.0.0.1 alone.", 403, "open the address that setclip printed")
        given = parse_qs(scope["query_string"].decode("latin-1"))
        token = given.pop("token", [""])[0]
        if scope["path"] == "/" and token and (self.token is None or self._is_token(token)):
            rest = urlencode(given, doseq=True)
            enter = RedirectResponse(f"/?{rest}" if rest else "/", 303)
            if self.token is not None:
                enter.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return enter
        _, _, bearer = headers.get("authorization", "").partition("Bearer ")
        if scope["path"] not in self.open_paths and not self._is_token(bearer):
            if self.token is not None and not self._is_token(_cookie(headers.get("cookie", ""), self.cookie)):
                return refused("The token is missing, or it is not the one of this service.", 403)
            if not self._may_come_from(headers.get("origin"), host) and scope["method"] not in ("GET", "HEAD"):
                return refused(
                    "Another page sent this request.", 403, "send it from the page of setclip, or with the token"
                )
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()) or int(length[:20]) > self.body_bytes:
            return self._too_large()
        return None

    def _may_come_from(self, origin: str | None, host: str) -> bool:
        """Whether a page of this origin may change things. Only a program sends none, and that needs a token if we have
        one; before a computer that adds TLS the origin has another scheme.
        """
        if origin is None:
            return self.token is None
        return origin == f"http://{host}" or (self.hosts is None and origin == f"https://{host}")

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def _too_large(self) -> Response:
        return refused(f"A request has at most {self.body_bytes:,} bytes.", 413, close=True)


_FIXES = {
    400: "send a request of HTTP/1.1",
    403: "open the whole address that setclip printed, or send its token as Authorization: Bearer TOKEN",
    408: "send it at once, or less of it",
    413: "send less at once",
    500: "whoever started setclip finds the reason in its terminal, and can report it",
    503: "ask again later",
}


def refused(why: str, status: int, fix: str = "", *, close: bool = False) -> Response:
    """An answer that says why there is no other. Each status has a fix that helps unless one is given."""
    content = {"error": why, "fix": fix or _FIXES[status]}
    return JSONResponse(content, status, {"connection": "close"} if close else None)


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except Exception:  # whatever a stranger sends is no cookie of ours
        return ""
    return found.value if found else ""


async def _read_body(receive: Receive, most: int) -> bytes | None:
    """The whole body; None as soon as it is too large."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            return None
    return bytes(body)


async def _discard(receive: Receive, within_s: float) -> None:
    """Reads what a client is still sending, within bounds: it would not read our answer before it has sent all."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            size = 0
            while size < _DISCARDED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, then what comes after it."""
    waiting = [body]

    async def give() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return give
