"""A file server on the loopback that breaks off, lies and changes its mind, as a test wants it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
import time
from collections import Counter

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """What it does is set by the test; what it was asked stands in ``asked``."""

    def __init__(self) -> None:
        self.files = {"/a.bin": CONTENT}
        self.asked: list[tuple[str, str | None]] = []
        self.failures: Counter[str] = Counter()
        self.break_after = 10**9  # bytes sent in one answer
        self.ranges = True
        self.tag = '"one"'
        self.redirects: dict[str, str] = {}  # path -> Location
        self.headers: dict[str, str] = {}  # sent with each file, instead of our own ones of that name
        self.received: list[dict[str, str]] = []  # headers of each request
        self.endless_headers = threading.Event()  # set it to get a header that never ends
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, *_: object) -> None: ...  # a client that has enough closes the connection

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        self.server.received.append(dict(self.headers))
        if self.server.endless_headers.is_set():
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            with contextlib.suppress(OSError):
                while self.server.endless_headers.is_set():
                    self.wfile.write(b"a")
                    time.sleep(0.01)
            self.close_connection = True
            return
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return
        if self.server.failures[self.path] > 0:
            self.server.failures[self.path] -= 1
            self.send_error(503)
            return
        if self.path not in self.server.files:
            self.send_error(404)
            return
        content, start = self.server.files[self.path], 0
        if wanted and self.server.ranges and self.headers.get("If-Range", self.server.tag) == self.server.tag:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, size = int(first), len(content)
            if last and start < size:
                content = content[: int(last) + 1]
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{size}")
        else:
            self.send_response(200)
        given = {"Content-Length": str(len(content) - start), "ETag": self.server.tag, **self.server.headers}
        for name, value in given.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[start : start + self.server.break_after])
        if len(content) - start > self.server.break_after:
            self.close_connection = True

    def log_message(self, *_: object) -> None: ...
