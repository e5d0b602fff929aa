"""Files and folders behind https://, with signed addresses that are never told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from loopback import Server
from small_world import invoke, run_ok

import setclip_cli as setclip
from setclip_cli.errors import SetClipError
from setclip_cli.remote import http_store, transfer
from setclip_cli.remote.copies import copy_of
from setclip_cli.remote.place import parse_place

SIGNED = "?X-Amz-Signature=deadbeefcafe&X-Amz-Credential=AKIASECRET"
LINES = b'{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n'


@pytest.fixture
def web(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("setclip_cli.remote.errors.time.sleep", lambda _: None)
    return server


def test_a_signed_address_is_used_and_told_nowhere(web: Server, tmp_path: Path) -> None:
    web.files[f"/raw/captions.jsonl{SIGNED}"] = LINES
    place = f"{web.url}/raw/captions.jsonl"
    code, stdout, stderr = invoke("ingest", f"caption={place}{SIGNED}", "--out", tmp_path / "d", "--json")
    assert code == 0, stderr
    assert json.loads(stdout)["new"][0]["path"] == place
    told = stdout + stderr + (tmp_path / "d" / "dataset.json").read_text()
    web.files.clear()
    code, stdout, stderr = invoke("ingest", f"caption={place}{SIGNED}", "--out", tmp_path / "e", "--json")
    assert code == 3
    assert f"{place}: no such file" in stderr
    told += stdout + stderr
    names = " ".join(str(path) for path in (tmp_path / "cache").rglob("*"))
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    for secret in ("deadbeefcafe", "AKIASECRET"):
        assert secret not in told + names
        assert secret.encode() not in kept


@pytest.mark.parametrize("code", [401, 403, 500])
def test_a_server_that_refuses_says_so_without_the_signature(
    web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(self: Any, place: Any, headers: Any) -> Any:
        import urllib.error
        from email.message import Message

        raise urllib.error.HTTPError(place.url, code, "no", Message(), None)

    monkeypatch.setattr(http_store.HttpStore, "_open", refuse)
    got, _, stderr = invoke("ingest", f"caption={web.url}/a.jsonl{SIGNED}", "--out", tmp_path / "d")
    assert got == 3
    assert "/a.jsonl: cannot be read" in stderr
    assert "deadbeefcafe" not in stderr
    assert "Traceback" not in stderr


def test_a_redirect_with_a_token_is_not_told(web: Server, tmp_path: Path) -> None:
    web.redirects["/a.jsonl"] = "ftp://elsewhere/x?token=deadbeefcafe"
    code, _, stderr = invoke("ingest", f"caption={web.url}/a.jsonl", "--out", tmp_path / "d")
    assert code == 3
    assert "it redirects to" in stderr
    assert "deadbeefcafe" not in stderr


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_breaks_off_goes_on(web: Server, monkeypatch: pytest.MonkeyPatch, ranges: bool) -> None:
    monkeypatch.setattr(http_store, "PIECE_BYTES", 200_000)
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)
    content = os.urandom(900_000)
    web.files["/a.bin"], web.ranges = content, ranges
    web.break_after = 10**9 if not ranges else 150_000
    assert copy_of(parse_place(f"{web.url}/a.bin")).read_bytes() == content


def test_a_file_that_changes_while_it_is_read_is_read_anew(web: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_store, "PIECE_BYTES", 200_000)
    first, second = os.urandom(500_000), os.urandom(500_000)
    web.files["/a.bin"] = first
    read = http_store.HttpStore.read

    def change(self: Any, relative: str, start: int, end: int) -> bytes:
        content = read(self, relative, start, end)
        if web.files["/a.bin"] is first:
            web.files["/a.bin"], web.tag = second, '"two"'
        return content

    monkeypatch.setattr(http_store.HttpStore, "read", change)
    assert copy_of(parse_place(f"{web.url}/a.bin")).read_bytes() == second


def test_a_dataset_on_a_web_server_is_read_by_its_index(web: Server, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    run_ok("ingest", tmp_path / "a.jsonl", "--modality", "caption", "--out", tmp_path / "d")
    for path in (tmp_path / "d").rglob("*"):
        if path.is_file():
            web.files[f"/data/my/{path.relative_to(tmp_path / 'd').as_posix()}"] = path.read_bytes()
    assert "whole" in run_ok("verify", f"{web.url}/data/my/")
    assert setclip.open_dataset(f"{web.url}/data/my").table("caption").num_rows == 2
    index = json.loads(web.files["/data/my/dataset.json"])
    index["shards"][0]["path"] = "../../../../up.parquet"
    web.files["/data/my/dataset.json"] = json.dumps(index).encode()
    with pytest.raises(SetClipError):
        setclip.open_dataset(f"{web.url}/data/my")
    assert not list(tmp_path.rglob("up.parquet"))


def test_a_page_in_place_of_a_folder_is_refused(web: Server, tmp_path: Path) -> None:
    web.files["/photos"] = b"<!DOCTYPE html><html><body>index</body></html>"
    code, _, stderr = invoke("ingest", f"image={web.url}/photos/", "--out", tmp_path / "d")
    assert code != 0
    assert f"{web.url}/photos" in stderr
    assert "Traceback" not in stderr
