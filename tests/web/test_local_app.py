"""A local page answers nobody who does not know its token, and lets nothing in from elsewhere."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest
from label_world import Client

from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.web.local_app import BODY_BYTES, local_app
from setclip_cli.web.serving import LocalServer, port_of, take_port

TOKEN = "a-token_of-the-test"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pages = tmp_path_factory.mktemp("pages")
    (pages / "index.html").write_text("<!doctype html><title>x</title>")
    (pages / "own.js").write_text("'use strict'")
    taken = take_port(0)
    app = local_app(port=port_of(taken), token=TOKEN, pages=[pages])

    @app.post("/echo")
    def echo(content: dict[str, str]) -> dict[str, str]:
        return content

    @app.get("/problem")
    def problem() -> None:
        raise SetClipError("the disk: is full", fix="free some")

    @app.get("/bug")
    def bug() -> None:
        raise ZeroDivisionError("/srv/secret/run")

    ready = threading.Event()
    server = LocalServer(app, ready=ready.set)
    thread = threading.Thread(target=lambda: server.run(sockets=[taken]))
    thread.start()
    assert ready.wait(60)
    yield f"http://127.0.0.1:{port_of(taken)}/?token={TOKEN}"
    server.stop()
    thread.join(60)
    taken.close()


@pytest.fixture
def client(address: str) -> Client:
    return Client(address)


def test_the_address_gives_a_cookie_and_the_token_leaves_the_address(address: str, client: Client) -> None:
    status, headers, _ = client.ask("GET", f"/?token={TOKEN}", cookie=None)
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=strict" in headers["set-cookie"]
    assert client.ask("GET", "/")[0] == 200
    assert client.ask("GET", "/page/own.js")[1]["content-type"].startswith("text/javascript")
    assert client.ask("GET", "/page/base.css")[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/?token=", "/?token=x", f"/?token={TOKEN}x", "/page/own.js", "/nowhere", "/docs"]
)
@pytest.mark.parametrize("cookie", [None, "setclip=1", 'a="', "\xff=\xfe"])
def test_without_the_token_every_path_is_403(client: Client, path: str, cookie: str | None) -> None:
    status, _, body = client.ask("GET", path, cookie=cookie)
    assert status == 403
    assert TOKEN not in body.decode()


def test_a_wrong_cookie_or_bearer_is_403_and_the_right_bearer_is_let_in(client: Client) -> None:
    name = client.cookie.partition("=")[0]
    assert client.ask("GET", "/", cookie=f"{name}=wrong")[0] == 403
    assert client.ask("GET", "/", cookie=None, authorization="Bearer wrong")[0] == 403
    assert client.ask("GET", "/", cookie=None, authorization=TOKEN)[0] == 403
    assert client.ask("GET", "/", cookie=None, authorization=f"Bearer {TOKEN}")[0] == 200
    status, _, body = client.ask("POST", "/echo", {"a": "b"}, cookie=None, origin=None, authorization=f"Bearer {TOKEN}")
    assert (status, body) == (200, b'{"a":"b"}')


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "", None])
def test_another_host_is_403_even_with_the_token(client: Client, host: str | None) -> None:
    status, headers, _ = client.ask("GET", f"/?token={TOKEN}", host=host)
    assert status in (400, 403)  # without a Host, HTTP itself is broken
    assert "set-cookie" not in headers


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", None])
def test_a_change_that_another_page_sends_is_403(client: Client, origin: str | None) -> None:
    assert client.ask("POST", "/echo", {"a": "b"}, origin=origin)[0] == 403
    assert client.ask("POST", "/echo", {"a": "b"})[0] == 200


def test_every_answer_says_what_a_page_may_do(client: Client) -> None:
    for path, cookie in (
        ("/", client.cookie),
        ("/", None),
        ("/nowhere", client.cookie),
        ("/page/own.js", client.cookie),
    ):
        _, headers, _ = client.ask("GET", path, cookie=cookie)
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_a_body_that_is_too_large_is_413_however_it_is_sent(client: Client) -> None:
    large = b'{"a":"' + b"x" * BODY_BYTES + b'"}'
    assert client.ask("POST", "/echo", large)[0] == 413
    host, port = client.host.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sent:  # in chunks, without a length
        head = (
            f"POST /echo HTTP/1.1\r\nHost: {client.host}\r\nOrigin: http://{client.host}\r\nCookie: {client.cookie}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        sent.sendall(head.encode())
        try:
            for start in range(0, len(large), 8192):
                part = large[start : start + 8192]
                sent.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            sent.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # it has said no before the end
        assert b" 413 " in sent.recv(100)
    assert client.ask("GET", "/")[0] == 200


@pytest.mark.parametrize("path", ["/page/../local_app.py", "/page/%2e%2e/index.html", "/page/", "/page/nothing.js"])
def test_only_the_files_of_the_page_are_served(client: Client, path: str) -> None:
    assert client.ask("GET", path)[0] == 404


def test_a_problem_is_told_in_words_and_a_misfit_without_an_echo(client: Client) -> None:
    status, _, body = client.ask("GET", "/problem")
    assert (status, body) == (500, b'{"error":"the disk: is full","fix":"free some"}')
    status, _, body = client.ask("POST", "/echo", {"a": [1, "<script>"]})
    assert status == 422
    assert b"<script>" not in body
    assert client.ask("POST", "/echo", b"{not json")[0] == 422


def test_a_bug_is_told_in_json_without_what_it_says_and_in_the_terminal_with_it(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    status, headers, body = client.ask("GET", "/bug")
    assert (status, set(json.loads(body))) == (500, {"error", "fix"})
    assert b"/srv/secret" not in body
    assert headers["x-content-type-options"] == "nosniff"
    assert "ZeroDivisionError: /srv/secret/run" in capsys.readouterr().err
    assert client.ask("GET", "/")[0] == 200


def test_a_port_in_use_is_told_at_once() -> None:
    with take_port(0) as taken:
        with pytest.raises(UsageError, match=f"port {port_of(taken)}: another program uses this port"):
            take_port(port_of(taken))
        assert taken.getsockname()[0] == "127.0.0.1"
