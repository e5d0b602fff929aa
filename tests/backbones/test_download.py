"""Claims about downloads, against a server on this machine: continued where they broke, checked, never half there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.download import download, reachable


class FileServer(ThreadingHTTPServer):
    """Serves one file under any path; can break off, refuse to continue, or change the file."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.etag = '"one"'
        self.break_after: int | None = None
        self.served: list[tuple[str, str | None, int]] = []  # path, Range, bytes sent

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if wanted and self.headers.get("If-Range") != self.server.etag:
            start = 0
        if start and start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        sent = body[: self.server.break_after]
        self.wfile.write(sent)
        self.server.served.append((self.path, wanted, len(sent)))

    def do_HEAD(self) -> None:
        self.send_error(404)

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


def test_esm_weights_come_from_the_published_layout_and_stay_in_the_cache(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("SETCLIP_ESM_URL", server.url)
    for _ in range(2):
        assert load_backbone("esm:esm2_t6_8M_UR50D", modality="protein").dim == 32
    assert [path for path, _, _ in server.served] == ["/models/esm2_t6_8M_UR50D.pt"]
    assert [path.name for path in (tmp_path / "hub" / "checkpoints").iterdir()] == ["esm2_t6_8M_UR50D.pt"]


def test_a_broken_transfer_is_continued_and_not_repeated(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "weights.pt"
    server.break_after = 10_000
    with pytest.raises(OSError, match="broke off after 10,000 of"):
        download(server.url, target)
    assert not target.exists()
    server.break_after = None
    assert download(server.url, target).read_bytes() == server.content
    assert server.served[1][1:] == ("bytes=10000-", len(server.content) - 10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


def test_a_file_that_changed_on_the_server_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    server.break_after = 10_000
    with pytest.raises(OSError, match="broke off"):
        download(server.url, tmp_path / "weights.bin")
    server.break_after, server.etag, server.content = None, '"two"', b"another file" * 2000
    assert download(server.url, tmp_path / "weights.bin").read_bytes() == server.content


def test_a_part_longer_than_the_file_is_thrown_away(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "w.pt.part").write_bytes(b"x" * (len(server.content) + 1))
    (tmp_path / "w.pt.part.mark").write_text(server.etag)
    assert download(server.url, tmp_path / "w.pt").read_bytes() == server.content


def test_a_damaged_checkpoint_never_takes_its_name(server: FileServer, tmp_path: Path) -> None:
    middle = len(server.content) // 2
    server.content = server.content[:middle] + b"\x55" * 2000 + server.content[middle + 2000 :]
    with pytest.raises(ValueError, match="came damaged"):
        download(server.url, tmp_path / "weights.pt")
    assert list(tmp_path.glob("weights.pt")) == list(tmp_path.glob("*.part")) == []


def test_any_answer_counts_as_reachable(server: FileServer) -> None:
    assert reachable(server.url)
    assert not reachable("http://127.0.0.1:9", timeout_s=0.5)
