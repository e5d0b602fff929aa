"""An S3 server on the loopback (moto) that refuses, breaks off and is slow as a test wants it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET = "AKIASETCLIPTESTKEY00", "setclip/secret+that/must0never1be2shown"


class S3:
    """The server, with what it was asked and what it does wrong.

    Attributes:
        asked: ``(method, path)`` of each request.
        fault: Is asked for each request ``(method, path)``: an error code such as ``AccessDenied``; ``cut`` to send
            half of the answer; ``silence``; None to answer.
        seen: Is called after each answer.
    """

    def __init__(self) -> None:
        import boto3
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: Any) -> None: ...

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.asked: list[tuple[str, str]] = []
        self.fault: Callable[[str, str], str | None] = lambda _method, _path: None
        self.seen: Callable[[str, str], None] = lambda _method, _path: None
        self.client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
        )

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].encode("latin-1").decode()
        self.asked.append((method, path))
        fault = self.fault(method, path)
        if fault not in (None, "cut"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            if fault == "silence":
                raise ConnectionError
            status = {"SlowDown": "503 Slow Down", "InternalError": "500 Error"}.get(str(fault), "403 Forbidden")
            body = f"<?xml version='1.0'?><Error><Code>{fault}</Code><Message>no {SECRET}</Message></Error>".encode()
            start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [] if method == "HEAD" else [body]
        body = b"".join(self._app(environ, start))
        self.seen(method, path)
        return [body[: len(body) // 2]] if fault == "cut" else [body]

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def get(self, bucket: str, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def upload(self, bucket: str, folder: Path, prefix: str) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(bucket, f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def state(self, bucket: str, prefix: str) -> dict[str, bytes]:
        return {key: self.get(bucket, key) for key in self.keys(bucket, prefix)}

    def gets(self, part: str = "") -> list[str]:
        return [path for method, path in self.asked if method == "GET" and part in path and path.count("/") > 1]


@pytest.fixture(scope="session")
def _s3_server() -> S3:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    return S3()


@pytest.fixture
def s3(_s3_server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    """The server, with an empty bucket `lab`, and a cache of its own."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": _s3_server.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SETCLIP_CACHE": str(tmp_path / "cache"),
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr("setclip_cli.remote.errors.time.sleep", lambda _: None)
    server = _s3_server
    server.client.create_bucket(Bucket="lab")
    server.asked.clear()
    yield server
    server.fault, server.seen = (lambda _method, _path: None), (lambda _method, _path: None)
    for key in server.keys("lab"):
        server.client.delete_object(Bucket="lab", Key=key)
    server.client.delete_bucket(Bucket="lab")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """fsspec's file system of this process, empty."""
    import fsspec

    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def png(number: int, size: int = 16) -> bytes:
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()
