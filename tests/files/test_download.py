"""Downloads against a server on the loopback that breaks off, lies, and changes its mind."""

from __future__ import annotations

import email.message
import hashlib
import io
import resource
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from loopback import CONTENT, MD5, SHA256, Server

from setclip_cli.errors import SetClipError
from setclip_cli.files import download, web
from setclip_cli.files.download import Wanted, fetch_all, with_mirrors
from setclip_cli.files.web import MAX_REDIRECTS


def wanted(server: Server, **changes: object) -> Wanted:
    fields: dict[str, object] = {"bytes": len(CONTENT), "sha256": SHA256, "md5": MD5, **changes}
    return Wanted("a.bin", (f"{server.url}/a.bin",), **fields)  # type: ignore[arg-type]


def test_a_file_comes_whole_and_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    (path,) = fetch_all([wanted(server)], tmp_path)
    assert path.read_bytes() == CONTENT
    fetch_all([wanted(server)], tmp_path)
    assert server.asked == [("/a.bin", None)]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".verified.json", "a.bin"]


@pytest.mark.parametrize("taken", [1, 1000])
def test_a_disk_that_takes_a_part_of_what_is_written_loses_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    """No hash is published for weights: a file that lacks its end would pass for whole."""

    class Nearly(io.FileIO):
        given = 0

        def write(self, block: Any) -> int:
            self.given += 1
            return super().write(block if self.given > 3 else block[:taken])

    monkeypatch.setattr(download, "_open_part", lambda part, mode: Nearly(part, mode))
    (path,) = fetch_all([wanted(server, bytes=None, sha256=None, md5=None)], tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_disk_that_becomes_full_within_the_last_block_is_an_error_and_the_rest_is_fetched(
    server: Server, tmp_path: Path
) -> None:
    file = wanted(server, bytes=None, sha256=None, md5=None)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) - 10, hard))
    try:
        with pytest.raises(SetClipError, match="a file may not be so large here"):
            fetch_all([file], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    (path,) = fetch_all([file], tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={len(CONTENT) - 10}-"


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


def refused(server: Server, folder: Path, words: str, *, start: str = "/a.bin", **changes: object) -> None:
    """It is refused at once, no file appears, and nothing is left over."""
    asked = len(server.asked)
    settings = changes.pop("settings", {})
    with pytest.raises(SetClipError, match=words):
        fetch_all([Wanted("a.bin", (server.url + start,), **changes)], folder, **settings)  # type: ignore[arg-type]
    assert not list(folder.glob("a.bin*"))
    assert len(server.asked) - asked <= MAX_REDIRECTS + 1


def test_a_file_without_a_published_size_has_a_cap(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", len(CONTENT) - 1)
    refused(server, tmp_path, "offers 1,024,000 bytes, and at most 1,023,999 are fetched")
    server.headers = {"Content-Length": "", "Transfer-Encoding": ""}  # it does not say how much comes
    refused(server, tmp_path, "sends more than 1,023,999 bytes")
    server.headers = {"Content-Length": "5"}  # nor the truth
    fetch_all([Wanted("a.bin", (f"{server.url}/a.bin",))], tmp_path)
    assert (tmp_path / "a.bin").stat().st_size == 5
    monkeypatch.setattr(download, "MAX_BYTES", len(CONTENT))
    server.headers = {}
    (path,) = fetch_all([Wanted("b.bin", (f"{server.url}/a.bin",))], tmp_path)
    assert path.read_bytes() == CONTENT


def test_the_users_cap_comes_before_a_published_size(server: Server, tmp_path: Path) -> None:
    cap = {"max_bytes": 1000}
    refused(server, tmp_path, "offers 1,024,000 bytes, and at most 1,000", settings=cap)
    with pytest.raises(SetClipError, match="has 1,024,000 bytes, as published, and at most 1,000") as caught:
        fetch_all([wanted(server)], tmp_path, max_bytes=1000)
    assert "--max-bytes" in caught.value.for_command_line()[1]
    assert len(server.asked) == 1
    fetch_all([wanted(server)], tmp_path, max_bytes=len(CONTENT))


def test_more_than_was_published_is_refused_from_the_header(server: Server, tmp_path: Path) -> None:
    server.headers = {"Content-Length": "9" * 15}
    refused(server, tmp_path, "longer than the published 1,024,000 bytes", bytes=len(CONTENT))
    server.headers = {"Content-Length": "9" * 500}  # no number of bytes at all
    fetch_all([wanted(server)], tmp_path)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "x\x9b2J"])
def test_a_compressed_answer_is_refused(server: Server, tmp_path: Path, encoding: str) -> None:
    server.headers = {"Content-Encoding": encoding}
    refused(server, tmp_path, r"the answer is compressed \([^\x9b]*\)")


def test_a_gz_file_may_be_sent_as_gzip_and_stays_as_it_is(server: Server, tmp_path: Path) -> None:
    server.headers = {"Content-Encoding": "x-gzip"}
    (path,) = fetch_all([Wanted("a.fasta.gz", (f"{server.url}/a.bin",), sha256=SHA256)], tmp_path)
    assert path.read_bytes() == CONTENT


def test_the_floor_of_speed_is_an_average_over_a_time() -> None:
    now = [0.0]
    floor = download.SpeedFloor(lambda: now[0])
    for _ in range(59):
        now[0] += 1
        floor.add(1)  # slow, but not for long enough
    now[0] += 1
    with pytest.raises(ConnectionError, match=r"fewer than 1,000 bytes a second for 60 s"):
        floor.add(1)
    floor = download.SpeedFloor(lambda: now[0])
    for _ in range(10):
        now[0] += 59.0
        floor.add(60_000)  # a burst a minute is fast enough
    now[0] += 61.0
    with pytest.raises(ConnectionError):
        floor.add(60_000)


def test_a_server_that_is_too_slow_is_tried_a_few_times_and_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SLOW_FOR_S", 0.0)
    monkeypatch.setattr(download, "SLOWEST", 1e18)
    server.break_after = 50_000
    with pytest.raises(SetClipError, match="bytes a second"):
        fetch_all([wanted(server)], tmp_path)
    assert len(server.asked) == download.ATTEMPTS


def test_a_server_that_sends_crumbs_is_given_up(server: Server, tmp_path: Path) -> None:
    server.break_after = 10
    with pytest.raises(SetClipError, match="the transfer stopped at 40 of 1,024,000 bytes"):
        fetch_all([wanted(server)], tmp_path)
    server.break_after = 10**9
    fetch_all([wanted(server)], tmp_path)  # and goes on later
    assert server.asked[-1] == ("/a.bin", "bytes=40-")


def test_headers_that_do_not_end_are_ended(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "HEADERS_WITHIN_S", 0.05)
    server.endless_headers.set()
    with pytest.raises(SetClipError, match=r"a\.bin: could not be fetched"):
        fetch_all([wanted(server)], tmp_path)
    server.endless_headers.clear()


def test_redirects_are_followed_five_times(server: Server, tmp_path: Path) -> None:
    server.redirects = {f"/{n}": f"/{n + 1}" for n in range(1, 9)} | {"/5": "/a.bin"}
    fetch_all([Wanted("a.bin", (f"{server.url}/1",), sha256=SHA256)], tmp_path)
    (tmp_path / "a.bin").unlink()
    (tmp_path / ".verified.json").unlink()
    server.redirects["/0"] = "/1"
    refused(server, tmp_path, "redirects more than 5 times", start="/0")
    server.redirects["/round"] = "/round"
    refused(server, tmp_path, "redirects more than 5 times", start="/round")


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://files.example/a.bin",
        "javascript:alert(1)",
        "data:text/plain,x",
        "gopher://127.0.0.1/",
        "//",
        "http://user:secret@127.0.0.1/a.bin",
        "http://[::1/a.bin",
        "http://127.0.0.1:99999/a.bin",
        "http://" + "x" * 70 + ".example/a.bin",
    ],
)
def test_a_redirect_to_another_scheme_or_to_no_usable_address_is_refused(
    server: Server, tmp_path: Path, target: str
) -> None:
    server.redirects["/start"] = target
    refused(server, tmp_path, "redirects|is not a usable address", start="/start")


def test_https_is_never_left_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_self: object, request: urllib.request.Request, **_: object) -> None:
        headers = email.message.Message()
        headers["Location"] = request.full_url.replace("https:", "http:")
        raise urllib.error.HTTPError(request.full_url, 302, "Found", headers, io.BytesIO())

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", answer)
    with pytest.raises(web.RefusedError, match="which is not https"):
        web.open_url("https://127.0.0.1/a", {}, timeout=1)


PRIVATE = [
    "10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0.0.0.0", "2130706433", "0x7f000001",
    "0177.0.0.1", "127.1", "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[::ffff:10.0.0.1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "224.0.0.1", "localhost",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_a_redirect_from_the_internet_to_a_private_address_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """The name of the first address leads, for its first question alone, to an address of the internet."""
    known = socket.getaddrinfo
    outside = known("93.184.216.34", 0)

    def resolve(name: str, port: object, *more: object, **extra: object) -> object:
        if name != "public.example":
            return known(name, port, *more, **extra)  # type: ignore[arg-type]
        return known("127.0.0.1", port, *more, **extra) if port else outside  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv("no_proxy", "*")
    server.redirects["/start"] = f"http://{host}:{server.server_address[1]}/a.bin"
    file = Wanted("a.bin", (f"http://public.example:{server.server_address[1]}/start",))
    with pytest.raises(SetClipError, match=r"redirects to .*, which is in (this machine|the local link|a private)"):
        fetch_all([file], tmp_path)
    assert [path for path, _ in server.asked] == ["/start"]


def test_a_name_that_changes_its_address_is_found_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the check asks the name server, and the connection asks it again."""
    known = socket.getaddrinfo
    outside = known("93.184.216.34", 0)

    def resolve(name: str, port: object, *more: object, **extra: object) -> object:
        return known("127.0.0.1", port, *more, **extra) if port else outside  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv("no_proxy", "*")
    port = server.server_address[1]
    server.redirects["/start"] = f"http://rebound.example:{port}/a.bin"
    with pytest.raises(SetClipError, match=r"rebound\.example at 127\.0\.0\.1, which is in this machine"):
        fetch_all([Wanted("a.bin", (f"http://public.example:{port}/start",))], tmp_path)
    assert [path for path, _ in server.asked] == ["/start"]


def test_a_manifest_of_this_machine_may_stay_on_it_and_not_reach_other_networks(server: Server, tmp_path: Path) -> None:
    server.redirects["/start"] = f"http://localhost:{server.server_address[1]}/a.bin"
    fetch_all([Wanted("a.bin", (f"{server.url}/start",), sha256=SHA256)], tmp_path)
    for host in ("169.254.169.254", "10.0.0.1"):
        server.redirects["/start"] = f"http://{host}/a.bin"
        refused(server, tmp_path / "other", "redirects to http://", start="/start")


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
)
def test_addresses_of_the_internet_are_known_as_such(address: str) -> None:
    assert web.network_of(address) == "the internet"


def test_a_redirected_request_carries_our_own_headers_alone(server: Server, tmp_path: Path) -> None:
    server.redirects["/start"] = "/a.bin"
    fetch_all([Wanted("a.bin", (f"{server.url}/start",), sha256=SHA256)], tmp_path)
    for headers in server.received:
        assert headers.keys() == {"Accept-Encoding", "Host", "User-Agent", "Connection"}


def test_what_a_server_says_is_shown_safely_and_shortly(server: Server, tmp_path: Path) -> None:
    server.redirects["/start"] = "file:///\x1b[31m" + "x" * 5000
    with pytest.raises(SetClipError) as caught:
        fetch_all([Wanted("a.bin", (f"{server.url}/start",))], tmp_path)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).replace("\n", "").isprintable()


def test_a_tag_that_is_not_one_is_not_sent_back(server: Server, tmp_path: Path) -> None:
    server.tag = '"one\ttwo"'
    server.break_after = 200_000
    (path,) = fetch_all([wanted(server)], tmp_path)
    assert path.read_bytes() == CONTENT
