"""The application of a local page: who may ask, what every answer carries, and errors in words."""

from __future__ import annotations

import hmac
import secrets
from http.cookies import SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES = 64 << 10  # of a request: answers are small
PAGE = Path(__file__).parent / "page"  # what all pages share
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".html": "text/html"}
_HEADERS = {
    # Nothing comes from elsewhere, no script or style stands in the page itself, and no text becomes mark-up.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",  # another session may get the same port, and its row 7 is another picture
}


def new_token() -> str:
    return secrets.token_urlsafe(32)


def local_app(*, port: int, token: str, pages: Iterable[Path]) -> FastAPI:
    """An application that answers only a browser or a program that knows the token.

    The address ``/?token=...`` gives the browser a cookie and leads to ``/``, so that the token does not stay in the
    address. A program sends the header ``Authorization: Bearer TOKEN`` instead.

    Args:
        port: Where it is served; requests to another host or port are refused, whatever name led here.
        token: What opens the page, from `new_token`.
        pages: Folders of files that belong to the page; each is served under its name, and ``index.html`` as ``/``.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    files = {
        path.name: path.read_bytes() for folder in (PAGE, *pages) for path in sorted(folder.iterdir()) if path.is_file()
    }
    app.add_middleware(_Checks, port=port, token=token)

    @app.get("/")
    def index() -> Response:
        return Response(files["index.html"], media_type=_TYPES[".html"])

    @app.get("/page/{name}")
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

    def __init__(self, app: ASGIApp, *, port: int, token: str) -> None:
        self.app = app
        self.token = token
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.cookie = f"setclip-{port}"  # browsers send the cookies of all ports of a host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no WebSocket is served

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        answer = self._refusal(scope, headers)
        if answer is None:
            body = await _read_body(receive)
            if body is None:
                answer = _too_large()
            else:
                await self.app(scope, _again(body, receive), send_with_headers)
                return
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        """The answer to a request that goes no further; None for one that may."""
        host = headers.get("host", "")
        if host not in self.hosts:
            return PlainTextResponse("This page is served to 127.0.0.1 alone.", 403)
        given = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and self._is_token(given.pop("token", [""])[0]):
            rest = urlencode(given, doseq=True)
            enter = RedirectResponse(f"/?{rest}" if rest else "/", 303)
            enter.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return enter
        _, _, bearer = headers.get("authorization", "").partition("Bearer ")
        if not self._is_token(bearer):
            if not self._is_token(_cookie(headers.get("cookie", ""), self.cookie)):
                return PlainTextResponse("Open the whole address that setclip printed, with its token.", 403)
            if scope["method"] not in ("GET", "HEAD") and headers.get("origin") != f"http://{host}":
                return PlainTextResponse("Another page sent this request.", 403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_BYTES:
            return _too_large()
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def _too_large() -> Response:
    return PlainTextResponse(f"A request has at most {BODY_BYTES:,} bytes.", 413, {"connection": "close"})


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except Exception:  # whatever a stranger sends is no cookie of ours
        return ""
    return found.value if found else ""


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None as soon as it is too large."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_BYTES:
            return None
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, then what comes after it."""
    waiting = [body]

    async def give() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return give
