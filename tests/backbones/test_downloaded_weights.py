"""Claims about downloaded weights, against a server on this machine: continued, checked, never half there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from setclip_cli.backbones import load_backbone
from setclip_cli.errors import SetClipError

SPEC = "esm:esm2_t6_8M_UR50D"


class FileServer(ThreadingHTTPServer):
    """Serves one file under any path; it can be missing."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.etag = '"one"'
        self.missing = False
        self.served: list[tuple[str, str | None, int]] = []  # path, Range, bytes sent

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        if self.server.missing:
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if wanted and self.headers.get("If-Range") != self.server.etag:
            start = 0
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(self.server.content) - 1}/{len(self.server.content)}"
            )
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        self.wfile.write(body)
        self.server.served.append((self.path, wanted, len(body)))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tiny_esm2: Path) -> Iterator[FileServer]:
    with FileServer(tiny_esm2.read_bytes()) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder, with the ESM weights on the server of this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("SETCLIP_ESM_URL", server.url)
    return tmp_path / "hub" / "checkpoints"


def test_esm_weights_come_from_the_published_layout_once(server: FileServer, cache: Path) -> None:
    for _ in range(2):
        assert load_backbone(SPEC, modality="protein").dim == 32
    assert [path for path, _, _ in server.served] == ["/models/esm2_t6_8M_UR50D.pt"]
    assert (cache / "esm2_t6_8M_UR50D.pt").read_bytes() == server.content


def test_a_broken_transfer_is_continued_and_not_repeated(server: FileServer, cache: Path) -> None:
    part = cache / "esm2_t6_8M_UR50D.pt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(server.content[:10_000])
    part.with_name(f"{part.name}.etag").write_text(server.etag)
    assert load_backbone(SPEC, modality="protein").dim == 32
    assert server.served[0][1:] == ("bytes=10000-", len(server.content) - 10_000)


def test_a_damaged_checkpoint_never_takes_its_name(server: FileServer, cache: Path) -> None:
    middle = len(server.content) // 2
    server.content = server.content[:middle] + b"\x55" * 2000 + server.content[middle + 2000 :]
    with pytest.raises(SetClipError, match=r"weights of esm:.*not found; tried .*arrived damaged"):
        load_backbone(SPEC, modality="protein")
    assert not list(cache.glob("*.pt"))


def test_a_server_without_the_file_is_named_with_the_other_ways(server: FileServer, cache: Path) -> None:
    server.missing = True
    with pytest.raises(SetClipError, match="HTTP 404") as caught:
        load_backbone(SPEC, modality="protein")
    assert "copy http://127.0.0.1" in caught.value.fix
