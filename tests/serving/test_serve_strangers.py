"""The service refuses and bears what strangers send."""

from __future__ import annotations

import io
import json
import socket
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import tiny
from PIL import Image
from serve_world import Caller, in_base64, service_of

from setclip_cli.serving.pictures import FORMATS, FORMATS_TOLD


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims, and has, many pixels."""

    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"text": ""}, "text: "),
        ({"text": "  \n"}, "text: is empty"),
        ({"text": "x" * 20_001}, "text: "),
        ({"text": 7}, "text: "),
        ({}, "give exactly one of text, sequence, image, vector"),
        ({"text": "a", "image": "aa=="}, "got text and image"),
        ({"text": "a", "more": 1}, "a field that is not known: 'more'"),
        ({"text": "a", "top": 0}, "top: "),
        ({"text": "a", "top": 10**30}, "top: "),
        ({"text": "a", "in": "protein"}, "in: there are no 'protein' rows here, only image and caption"),
        ({"text": "a", "as": "image"}, "as: 'image' does not read a text"),
        ({"sequence": "MKV"}, "no tower reads a sequence: this model reads image (image) and caption (text)"),
        ({"vector": [1.0]}, "no tower reads a vector"),
        ({"embedding": [1.0] * 7, "in": "image"}, "embedding: has 7 values, and embeddings here have 8"),
        ({"embedding": [0.0] * 8, "in": "image"}, "embedding: "),
        ({"embedding": [1.0] * 8}, "in: nothing says which rows to search"),
        ({"embedding": [1.0] * 8, "as": "sar", "in": "image"}, "as: there is no 'sar' tower"),
        ({"id": "nobody", "as": "image"}, "id: there is no such image row"),
        ({"id": "image-0"}, "id: nothing says of which modality"),
        ({"image": "not base64!"}, "image: is not base64"),
        ({"image": in_base64(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")}, "image: is not a picture"),
        ({"image": in_base64(b"\x89PNG\r\n\x1a\n" + b"x" * 40)}, "image: is not a picture"),
        ({"image": in_base64(tiny.jpeg(1)[:-60])}, "cannot be decoded"),
        ({"image": in_base64(png_bomb(60_000, 60_000))[:700_000]}, "pixels"),
        ({"image": in_base64(png_bomb(12_000, 12_000))}, "12,000 x 12,000 pixels, more than 25,000,000"),
    ],
)  # fmt: skip
def test_a_query_that_cannot_be_answered_is_422_and_says_why(
    of_pictures: Caller, body: dict[str, Any], told: str
) -> None:
    status, content = of_pictures.post("/search", body)
    assert status == 422, content
    assert told in content["error"]
    assert content["fix"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"text": "\\ud800"}', b"\xff\xfe", b'{"text": NaN}', b'{"embedding": [NaN]}',
     b'{"embedding": [1e999], "in": "image"}', b"[" * 50_000],
)  # fmt: skip
def test_a_body_that_is_no_request_is_422(of_pictures: Caller, body: bytes) -> None:
    status, content = of_pictures.post("/search", body)
    assert status == (400 if body.startswith(b"[[") else 422), content
    assert set(content) == {"error", "fix"}


@pytest.mark.parametrize(
    ("sent_as", "told"),
    [
        (None, "Content-Type is missing"),
        ("text/plain", "Content-Type says"),
        ("application/x-www-form-urlencoded", "Content-Type says"),
    ],
)
def test_a_body_whose_header_does_not_say_json_is_told_so(of_pictures: Caller, sent_as: str | None, told: str) -> None:
    status, content = of_pictures.post("/search", {"text": "a"}, **{"content-type": sent_as})
    assert status == 422
    assert told in content["error"]
    assert content["fix"]


def test_a_query_of_10_mb_is_413(of_pictures: Caller) -> None:
    status, said = of_pictures.post("/search", {"text": "x" * 10_000_000})
    assert (status, said["error"]) == (413, "A request has at most 1,048,576 bytes.")
    assert of_pictures.fine("/search", text="forest")["hits"]


def connections(caller: Caller, count: int) -> list[socket.socket]:
    host, port = caller.host.split(":")
    return [socket.create_connection((host, int(port)), timeout=60) for _ in range(count)]


def all_of(connection: socket.socket) -> bytes:
    """What is sent until the service closes the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_a_slow_client_is_put_out_and_keeps_nobody_waiting(pictures: Path) -> None:
    with service_of(pictures, timeout=1) as address:
        caller = Caller(address)
        slow = connections(caller, 4)
        head = f"POST /search HTTP/1.1\r\nHost: {caller.host}\r\nAuthorization: Bearer {caller.token}\r\n"
        slow[0].sendall(b"POST /sea")  # never ends its first line
        slow[1].sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        slow[2].sendall(f"GET /health HTTP/1.1\r\nHost: {caller.host}\r\n\r\nGET /hea".encode())
        assert caller.fine("/search", text="forest")["hits"]
        assert slow[2].recv(12) == b"HTTP/1.1 200"
        for one in slow:  # the last one never says a word
            told = all_of(one)
            assert b"HTTP/1.1 408 " in told
            assert json.loads(told.rpartition(b"\r\n\r\n")[2])["error"] == "The request did not arrive within 1 s."


def test_connections_without_a_request_keep_nobody_out(pictures: Path) -> None:
    with service_of(pictures) as address:
        caller = Caller(address)
        idle = connections(caller, 70)
        for one in idle[::2]:
            one.sendall(b"POST /search HTTP/1.1\r\n")
        assert caller.fine("/search", text="forest")["hits"]
        told = all_of(idle[0])  # it has waited longest
        assert told.startswith(b"HTTP/1.1 503 ")
        assert json.loads(told.rpartition(b"\r\n\r\n")[2])["fix"] == "ask again later"
        for one in idle[1:]:
            one.close()


def test_what_is_no_http_is_told_in_json(of_pictures: Caller) -> None:
    [one] = connections(of_pictures, 1)
    one.sendall(b"hello\r\n\r\n")
    told = all_of(one)
    assert told.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(told.rpartition(b"\r\n\r\n")[2])) == {"error", "fix"}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_that_is_told_is_read(of_pictures: Caller, name: str) -> None:
    written = io.BytesIO()
    Image.open(io.BytesIO(tiny.jpeg(3))).save(written, name)
    assert of_pictures.fine("/search", image=in_base64(written.getvalue()), top=1)["hits"]


def test_errors_docs_and_description_tell_the_same_formats(of_pictures: Caller) -> None:
    _, told = of_pictures.post("/search", {"image": in_base64(b"no picture")})
    assert FORMATS_TOLD in told["fix"]
    assert "base64" not in told["fix"]
    bearer = f"Bearer {of_pictures.token}"
    description = json.loads(of_pictures.ask("GET", "/openapi.json", authorization=bearer)[2])
    for name in ("Item", "SearchRequest"):
        assert FORMATS_TOLD in json.dumps(description["components"]["schemas"][name]["properties"]["image"])
    docs = Path(__file__).parents[2] / "docs" / "serve.md"
    assert f"A picture may be {FORMATS_TOLD}." in docs.read_text()
