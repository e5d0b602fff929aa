"""Downloads against a server on the loopback that breaks off, lies, and changes its mind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from loopback import CONTENT, MD5, SHA256, Server

from setclip_cli.errors import SetClipError
from setclip_cli.files import download
from setclip_cli.files.download import Wanted, fetch_all, with_mirrors


def wanted(server: Server, **changes: object) -> Wanted:
    fields: dict[str, object] = {"bytes": len(CONTENT), "sha256": SHA256, "md5": MD5, **changes}
    return Wanted("a.bin", (f"{server.url}/a.bin",), **fields)  # type: ignore[arg-type]


def test_a_file_comes_whole_and_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    (path,) = fetch_all([wanted(server)], tmp_path)
    assert path.read_bytes() == CONTENT
    fetch_all([wanted(server)], tmp_path)
    assert server.asked == [("/a.bin", None)]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".verified.json", "a.bin"]


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.break_after = 200_000
    (path,) = fetch_all([wanted(server)], tmp_path)
    assert path.read_bytes() == CONTENT
    starts = [0 if asked is None else int(asked[6:-1]) for _, asked in server.asked]
    assert starts == list(range(0, len(CONTENT), 200_000))


def test_what_an_earlier_run_left_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:300_000])
    (tmp_path / "a.bin.part.etag").write_text('"one"')
    fetch_all([wanted(server)], tmp_path)
    assert server.asked == [("/a.bin", "bytes=300000-")]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["another tag", "no ranges", "left over too long"])
def test_what_an_earlier_run_left_is_thrown_away_when_it_no_longer_fits(
    server: Server, tmp_path: Path, change: str
) -> None:
    left = b"old" * 100 if change != "left over too long" else CONTENT + b"more"
    (tmp_path / "a.bin.part").write_bytes(left)
    if change == "another tag":
        (tmp_path / "a.bin.part.etag").write_text('"zero"')
    server.ranges = change != "no ranges"
    fetch_all([wanted(server)], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_that_fails_a_few_times_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.failures["/a.bin"] = download.ATTEMPTS - 1
    fetch_all([wanted(server)], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_that_keeps_failing_is_named_with_its_answer(server: Server, tmp_path: Path) -> None:
    server.failures["/a.bin"] = 10**6
    with pytest.raises(SetClipError, match=r"a\.bin: could not be fetched \(http.*HTTP 503"):
        fetch_all([wanted(server)], tmp_path)
    assert len(server.asked) == download.ATTEMPTS


def test_the_next_address_is_tried_when_one_has_nothing(server: Server, tmp_path: Path) -> None:
    file = Wanted("a.bin", (f"{server.url}/gone.bin", f"{server.url}/a.bin"), sha256=SHA256)
    fetch_all([file], tmp_path)
    assert [path for path, _ in server.asked] == ["/gone.bin", "/a.bin"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "0" * 64}, "sha256 .* 0{64} was published"),
        ({"md5": "0" * 32}, "md5 .* 0{32} was published"),
        ({"bytes": len(CONTENT) + 1, "sha256": None, "md5": None}, "bytes, 1,024,001 were published"),
        ({"bytes": 1000}, "longer than the published 1,000 bytes"),
    ],
)
def test_a_file_that_is_not_what_was_published_never_gets_its_name(
    server: Server, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(SetClipError, match=words):
        fetch_all([wanted(server, **changes)], tmp_path)
    assert not (tmp_path / "a.bin").exists()


def test_a_file_that_changed_on_disk_is_found_out(server: Server, tmp_path: Path) -> None:
    (path,) = fetch_all([wanted(server)], tmp_path)
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(SetClipError, match="not the published file"):
        fetch_all([wanted(server)], tmp_path)


def test_several_files_come_in_parallel(server: Server, tmp_path: Path) -> None:
    files = []
    for number in range(6):
        content = bytes([number]) * 10_000
        server.files[f"/{number}.bin"] = content
        digest = hashlib.sha256(content).hexdigest()
        files.append(Wanted(f"{number}.bin", (f"{server.url}/{number}.bin",), 10_000, digest))
    assert [path.name for path in fetch_all(files, tmp_path)] == [f"{number}.bin" for number in range(6)]


def test_a_mirror_stands_before_the_address_it_mirrors(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_MIRRORS", f"https://far.example/data/={server.url}/ https://x/=https://y/")
    assert with_mirrors(["https://far.example/data/a.bin"]) == [f"{server.url}/a.bin", "https://far.example/data/a.bin"]


def test_an_address_that_is_not_http_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(SetClipError, match="is not an http or https address"):
        fetch_all([Wanted("a", ((tmp_path / "secret").as_uri(),))], tmp_path / "out")
