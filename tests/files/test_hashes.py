"""Claims about files that are checked before they are used, and about JSON files that hold their own hash."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic, hashes
from setclip_cli.files.documents import read_json, signed, unsigned, write_document


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def large_file(folder: Path) -> Path:
    """A file that is worth remembering, written long enough ago."""
    path = folder / "large"
    path.write_bytes(os.urandom(hashes.REMEMBERED_BYTES))
    while time.time_ns() - path.stat().st_ctime_ns <= hashes._TICK_NS:
        time.sleep(0.01)
    return path


def test_a_large_file_is_read_once_until_it_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = large_file(tmp_path)
    digest = hashes.hash_and_remember(path)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "sha256_file", lambda _: pytest.fail("was read again"))
        assert hashes.is_unchanged(path, digest)
    os.utime(path)
    assert hashes.is_unchanged(path, digest)  # read again


@pytest.mark.parametrize("size", [10, hashes.REMEMBERED_BYTES])
def test_an_edit_that_keeps_size_and_time_is_noticed(tmp_path: Path, size: int) -> None:
    path = large_file(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    time.sleep(0.1)
    digest, times = hashes.hash_and_remember(path), path.stat()
    content = bytearray(path.read_bytes())
    content[size // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert not hashes.is_unchanged(path, digest)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"stamp": 1, "sha256": "x"}'])
def test_a_damaged_memory_means_reading_again(tmp_path: Path, cache: Path, content: bytes) -> None:
    path = large_file(tmp_path)
    digest = hashes.hash_and_remember(path)
    (record,) = (cache / "hashes").iterdir()
    record.write_bytes(content)
    assert hashes.is_unchanged(path, digest)
    assert not hashes.is_unchanged(path, "0" * 64)


def test_without_a_cache_nothing_is_remembered_and_everything_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large_file(tmp_path)
    monkeypatch.setenv("SETCLIP_CACHE", str(path))  # a file
    digest = hashes.hash_and_remember(path)
    assert hashes.is_unchanged(path, digest)
    assert not hashes.is_unchanged(path, "0" * 64)


def test_a_missing_and_a_changed_file_are_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("other")
    for name, words in (("gone", "gone: is missing; list.json lists it"), ("there", "there: has changed since align")):
        with pytest.raises(SetClipError, match=words) as error:
            hashes.require_unchanged(tmp_path / name, "0" * 64, since="align", listed_in="list.json", fix="train again")
        assert error.value.fix == "train again"


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str
    zeros: str = "0" * 64


def test_every_changed_byte_of_a_document_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_document(path, Note(text='"self_sha256": "é"').model_dump())
    whole = path.read_bytes()
    assert read_json(path, Note, fix="-").text == '"self_sha256": "é"'
    for at in range(len(whole)):
        for byte in {whole[at] ^ 1, ord(" "), ord("0")} - {whole[at]}:
            path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
            with pytest.raises(SetClipError, match=r"note\.json"):
                read_json(path, Note, fix="-")


def test_a_document_of_an_earlier_version_has_no_hash_and_opens(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    atomic.write_json(path, {"text": "x"})
    assert read_json(path, Note, fix="-").text == "x"


def test_equal_content_gives_equal_bytes_and_one_line_stays_one() -> None:
    line = signed({"b": 1, "a": [2]}, indent=None)
    assert line == signed({"a": [2], "b": 1}, indent=None)
    assert line.count("\n") == 1
    assert unsigned(line.encode()) == ({"a": [2], "b": 1}, True)
    assert unsigned(line.replace("2", "3", 1).encode())[1] is False
