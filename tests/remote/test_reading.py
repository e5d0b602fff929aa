"""What is read elsewhere: names, changes, faults of the server, rights, and that no secret is ever told."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY, SECRET, png  # type: ignore[attr-defined]
from filelock import FileLock
from small_world import invoke, run_ok

import setclip_cli as setclip
from setclip_cli.embedding.options import SearchOptions
from setclip_cli.embedding.search import search
from setclip_cli.errors import SetClipError
from setclip_cli.remote import stores, transfer
from setclip_cli.remote.copies import copy_of
from setclip_cli.remote.errors import scrubbed
from setclip_cli.remote.place import parse_place

LINE = '{{"id": "{0}", "text": "{0} text"}}\n'
ODD_NAMES = [
    "a b.png",
    "ü/ñ 照片.png",
    "what?.png",
    "50%.png",
    "a#b.png",
    "[x]*.png",
    "a=b.png",
    "q'uo\"te.png",
    "%41.png",
]


def _ingest(source: str, out: Path, *more: object) -> tuple[int, str, str]:
    return invoke("ingest", source, "--out", out, *more)


def test_names_with_odd_letters_come_over_as_they_are(s3: Any, tmp_path: Path) -> None:
    for number, name in enumerate(ODD_NAMES):
        s3.put("lab", f"my photos/{name}", png(number))
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(png(number))
    s3.put("lab", "my photos/", b"")  # what a console makes for a folder
    s3.put("lab", "my photos2/other.png", png(99))
    code, _, stderr = _ingest("s3://lab/my photos/", tmp_path / "d", "--modality", "image")
    assert code == 0, stderr
    run_ok("ingest", tmp_path / "photos", "--modality", "image", "--out", tmp_path / "here")
    ids = setclip.open_dataset(tmp_path / "d").table("image", columns=["id"])["id"].to_pylist()
    assert sorted(ids) == sorted(ODD_NAMES)
    assert ids == setclip.open_dataset(tmp_path / "here").table("image", columns=["id"])["id"].to_pylist()
    entry = json.loads((tmp_path / "d" / "dataset.json").read_text())["sources"][0]
    assert entry["path"] == "s3://lab/my photos"


@pytest.mark.parametrize("name", ["what?.jsonl", "a#b.jsonl", "a b.jsonl", "ü.jsonl"])
def test_a_file_with_an_odd_name_is_a_source(s3: Any, tmp_path: Path, name: str) -> None:
    s3.put("lab", f"x/{name}", LINE.format("a").encode())
    code, _, stderr = _ingest(f"caption=s3://lab/x/{name}", tmp_path / "d")
    assert code == 0, stderr
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["sources"][0]["path"] == f"s3://lab/x/{name}"


@pytest.mark.parametrize(
    "key", ["photos/../../up.png", "photos//two.png", "photos/./here.png", f"photos/{'x' * 300}.png"]
)
def test_a_name_that_no_file_can_have_is_refused_and_nothing_leaves_the_cache(
    memory: Any, tmp_path: Path, key: str
) -> None:
    memory.store["/" + key] = memory.open("/tmp.png", "wb")
    memory.pipe_file("/tmp.png", png(1))
    memory.store["/" + key] = memory.store.pop("/tmp.png")
    memory.pipe_file("/photos/fine.png", png(2))
    code, _, stderr = _ingest("memory://photos", tmp_path / "d", "--modality", "image")
    assert code == 3
    assert "no local file can have this name" in stderr
    assert not list(tmp_path.rglob("up.png"))


def test_a_name_that_is_a_file_and_a_folder_is_refused(memory: Any, tmp_path: Path) -> None:
    for name in ("photos/a", "photos/a/b.png"):
        memory.store["/x"] = None
        memory.pipe_file("/x", png(1))
        memory.store[f"/{name}"] = memory.store.pop("/x")
    code, _, stderr = _ingest("memory://photos", tmp_path / "d", "--modality", "image")
    assert code == 3
    assert "both as a file and as a folder" in stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("s3://", "names no bucket"),
        ("s3:///x", "empty part"),
        ("s3://lab//x", "empty part"),
        ("s3://lab/../x", "'..'"),
        ("az://lab/x", "az://: is not a kind of place that setclip reads"),
        ("https://", "names no host"),
        ("https:///x", "names no host"),
        ("https://host:port/x", "is not an address"),
        ("https://me:hunter2pass@host/x", "has a user name or a password in it"),
        (f"s3://{KEY}:hunter2pass@lab/x", "has a user name or a key"),
    ],
)
def test_a_place_that_cannot_be_is_a_usage_error_without_its_secret(tmp_path: Path, given: str, words: str) -> None:
    code, _, stderr = _ingest(given, tmp_path / "d", "--modality", "caption")
    assert code == 2
    assert words in stderr
    assert "hunter2pass" not in stderr
    assert KEY not in stderr


def test_a_path_object_of_a_place_is_refused(tmp_path: Path) -> None:
    for call in (
        lambda: setclip.open_dataset(Path("s3://lab/x")),
        lambda: setclip.evaluate([Path("s3://lab/x")], tmp_path, tmp_path),
    ):
        with pytest.raises(SetClipError, match="a Path loses a slash"):
            call()


def test_a_source_that_has_not_changed_is_neither_copied_nor_read_again(s3: Any, tmp_path: Path) -> None:
    s3.put("lab", "raw/a.jsonl", LINE.format("a").encode())
    assert _ingest("caption=s3://lab/raw/a.jsonl", tmp_path / "d")[0] == 0
    s3.asked.clear()
    _, stdout, _ = _ingest("caption=s3://lab/raw/a.jsonl", tmp_path / "d")
    assert "s3://lab/raw/a.jsonl: unchanged, not read again" in stdout
    assert s3.gets("a.jsonl") == []
    s3.put("lab", "raw/a.jsonl", LINE.format("a").encode())  # written again, with the same content
    assert "unchanged" in _ingest("caption=s3://lab/raw/a.jsonl", tmp_path / "d")[1]


def test_a_source_that_another_machine_reads_is_the_same_source(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("lab", "raw/a.jsonl", LINE.format("a").encode())
    assert _ingest("caption=s3://lab/raw/a.jsonl", tmp_path / "d")[0] == 0
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "another"))
    assert "unchanged, not read again" in _ingest("caption=s3://lab/raw/a.jsonl", tmp_path / "d")[1]


def test_a_source_that_has_changed_between_two_runs_is_read_again_with_those_after_it(s3: Any, tmp_path: Path) -> None:
    s3.put("lab", "raw/a.jsonl", LINE.format("a").encode())
    s3.put("lab", "raw/b.jsonl", LINE.format("b").encode())
    for name in "ab":
        assert _ingest(f"caption=s3://lab/raw/{name}.jsonl", tmp_path / "d")[0] == 0
    s3.put("lab", "raw/a.jsonl", LINE.format("c").encode())  # of the same size
    code, _, stderr = _ingest("caption=s3://lab/raw/a.jsonl", tmp_path / "d")
    assert code == 0, stderr
    assert "s3://lab/raw/a.jsonl: changed since" in stderr
    found = setclip.open_dataset(tmp_path / "d").table("caption", columns=["id"])["id"].to_pylist()
    assert found == ["c", "b"]


def test_a_folder_that_changes_while_it_is_read_is_read_as_it_is_in_the_end(s3: Any, tmp_path: Path) -> None:
    for number in range(4):
        s3.put("lab", f"photos/{number}.png", png(number))
    s3.asked.clear()

    def seen(method: str, path: str) -> None:
        if method == "GET" and path.endswith("/0.png"):
            s3.seen = lambda _method, _path: None
            s3.put("lab", "photos/3.png", png(30))
            s3.client.delete_object(Bucket="lab", Key="photos/2.png")
            s3.put("lab", "photos/9.png", png(9))

    s3.seen = seen
    monkey, transfer.PARALLEL = transfer.PARALLEL, 1
    try:
        folder = copy_of(parse_place("s3://lab/photos"))
    finally:
        transfer.PARALLEL = monkey
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "0.png": png(0), "1.png": png(1), "3.png": png(30), "9.png": png(9),
    }  # fmt: skip


def test_a_file_that_never_stops_changing_is_an_error(s3: Any) -> None:
    s3.put("lab", "a.bin", b"0")
    number = [0]

    def seen(method: str, path: str) -> None:
        if method == "GET" and path.endswith("a.bin"):
            number[0] += 1
            s3.client.put_object(Bucket="lab", Key="a.bin", Body=b"%d" % number[0])

    s3.put("lab", "a.bin", b"x")
    s3.fault = lambda method, path: seen(method, path)  # before each answer
    with pytest.raises(SetClipError, match="changes while it is read"):
        copy_of(parse_place("s3://lab/a.bin"))


@pytest.mark.parametrize("fault", ["cut", "silence", "SlowDown", "InternalError"])
def test_a_server_that_breaks_off_is_asked_again_for_the_rest_alone(
    s3: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(stores, "PIECE_BYTES", 1000)
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)
    monkeypatch.setattr(stores, "_TIMEOUT_S", {"connect_timeout": 1, "read_timeout": 1})
    content = os.urandom(5500)
    s3.put("lab", "a.bin", content)
    count = [0]

    def fail(method: str, path: str) -> str | None:
        count[0] += method == "GET" and path.endswith("a.bin")
        return fault if method == "GET" and path.endswith("a.bin") and count[0] % 3 == 0 else None

    s3.fault = fail
    assert copy_of(parse_place("s3://lab/a.bin")).read_bytes() == content
    assert count[0] <= 20


def test_a_transfer_that_never_works_ends_and_is_resumed_by_the_next_command(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PIECE_BYTES", 1000)
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)
    content = os.urandom(3500)
    s3.put("lab", "a.bin", content)
    count = [0]

    def fail(method: str, path: str) -> str | None:
        count[0] += method == "GET" and path.endswith("a.bin")
        return "cut" if count[0] > 2 else None

    s3.fault = fail
    with pytest.raises(SetClipError, match="the same command again: what came over is kept"):
        copy_of(parse_place("s3://lab/a.bin"))
    assert count[0] < 30
    s3.fault = lambda _method, _path: None
    s3.asked.clear()
    assert copy_of(parse_place("s3://lab/a.bin")).read_bytes() == content
    assert len(s3.gets("a.bin")) == 2  # the pieces that were missing


@pytest.mark.parametrize("fault", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_server_that_refuses_is_asked_once_and_no_key_is_told(
    s3: Any, tmp_path: Path, fault: str, method: str
) -> None:
    s3.put("lab", "raw/a.jsonl", LINE.format("a").encode())
    s3.asked.clear()
    s3.fault = lambda asked, _path: fault if asked == method else None
    code, stdout, stderr = invoke("ingest", "caption=s3://lab/raw/a.jsonl", "--out", "s3://lab/d", "--json")
    assert code == 3
    assert "Traceback" not in stderr
    assert "s3://lab/" in stderr
    assert "AWS_ACCESS_KEY_ID" in stderr
    for told in (stdout, stderr):
        assert SECRET not in told
        assert KEY not in told
    assert sum(asked == method for asked, _ in s3.asked) < 6


def test_a_bucket_that_is_not_there_and_no_keys_at_all(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, stderr = _ingest("caption=s3://nowhere/a.jsonl", tmp_path / "d")
    assert code == 3
    assert "there is no bucket 'nowhere'" in stderr or "no such file or folder" in stderr
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, _, stderr = _ingest("caption=s3://lab/a.jsonl", tmp_path / "d")
    assert code == 3
    assert "no keys were found for it" in stderr


def test_a_full_disk_names_the_cache_and_what_was_copied_stays(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("lab", "raw/a.jsonl", LINE.format("a").encode() * 100)
    monkeypatch.setattr(transfer, "free_bytes", lambda _path: (10, tmp_path))
    code, _, stderr = _ingest("caption=s3://lab/raw/a.jsonl", tmp_path / "d")
    assert code == 3
    assert "bytes to copy, and 10 are free in" in stderr
    assert "SETCLIP_CACHE can name a folder on another disk" in stderr


@pytest.mark.slow
def test_a_thousand_files_are_listed_in_pages_and_counted(s3: Any, tmp_path: Path) -> None:
    for number in range(1100):
        s3.put("lab", f"many/{number:04d}.txt", b"%d" % number)
    s3.asked.clear()
    folder = copy_of(parse_place("s3://lab/many"))
    assert len(list(folder.iterdir())) == 1100
    assert sum(method == "GET" and path == "/lab" for method, path in s3.asked) <= 3
    s3.asked.clear()
    s3.put("lab", "many/0007.txt", b"seven")
    assert (copy_of(parse_place("s3://lab/many")) / "0007.txt").read_bytes() == b"seven"
    assert len(s3.gets("many/")) == 1  # only what has changed


@pytest.mark.parametrize(
    "told",
    [
        "https://h/x?X-Amz-Signature=abcdef0123&X-Amz-Credential=AKIA",
        "https://user:abcdef0123@h/x",
        "failed: X-Amz-Signature=abcdef0123",
        "Authorization: abcdef0123",
        "aws_session_token = abcdef0123",
    ],
)
def test_words_of_a_library_lose_their_secrets(told: str) -> None:
    assert "abcdef0123" not in scrubbed(told)


def test_a_secret_of_the_environment_is_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    assert "hf_abcdefghijkl" not in scrubbed("cannot use hf_abcdefghijkl here")


def test_two_copies_of_one_state_are_one_folder_and_another_state_is_another(memory: Any) -> None:
    memory.pipe_file("/d/a.txt", b"1")
    first = copy_of(parse_place("memory://d"))
    assert copy_of(parse_place("memory://d")) == first
    memory.pipe_file("/d/a.txt", b"2")
    second = copy_of(parse_place("memory://d"))
    assert ((first / "a.txt").read_bytes(), (second / "a.txt").read_bytes()) == (b"1", b"2")


def test_an_option_that_only_looks_like_a_place_is_left_as_it_is(memory: Any, tmp_path: Path) -> None:
    memory.pipe_file("/v/x.csv", b"id,dim_0,dim_1\na,1.0,2.0\nb,2.0,1.0\n")
    out = tmp_path / "d"
    code, _, stderr = invoke(
        "ingest", "sound=memory://v/x.csv", "--kind", "vector", "--vector-column", "dim_*",
        "--encoder", "https://nowhere.invalid/clap", "--out", out,
    )  # fmt: skip
    assert code == 0, stderr
    assert setclip.open_dataset(out).about("sound").encoder == "https://nowhere.invalid/clap"


def test_a_file_to_write_is_on_this_machine(memory: Any) -> None:
    code, _, stderr = invoke("search", "memory://e", "words", "--sheet", "s3://lab/found.png")
    assert code == 2
    assert "--sheet s3://lab/found.png: must be on this machine" in stderr
    with pytest.raises(SetClipError, match=r"sheet s3://lab/found.png: must be on this machine"):
        search("memory://e", "words", options=SearchOptions(sheet="s3://lab/found.png"))


@pytest.mark.parametrize("names", [["a.bin", "a.bin.part"], ["empty", ".part"], ["x" * 255, "照" * 85]])
def test_names_and_sizes_at_the_edge_come_over(memory: Any, names: list[str]) -> None:
    for name in names:
        memory.pipe_file(f"/d/{name}", b"" if name == "empty" else name.encode())
    folder = copy_of(parse_place("memory://d"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: b"" if name == "empty" else name.encode() for name in names
    }


def test_a_second_command_waits_for_the_first_that_copies(memory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    memory.pipe_file("/d/a.txt", b"1")
    folder = copy_of(parse_place("memory://d")).parent
    (folder / "d" / "a.txt").unlink()
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    lock.acquire()
    second = threading.Thread(target=lambda: copy_of(parse_place("memory://d")))
    second.start()
    second.join(1)
    assert second.is_alive()
    lock.release()
    second.join(30)
    assert (folder / "d" / "a.txt").read_bytes() == b"1"
    assert "another setclip process is copying it" in capsys.readouterr().err
