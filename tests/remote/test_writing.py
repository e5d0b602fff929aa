"""A folder elsewhere is the old one or the new one at every moment, whoever stops, and however."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_world import invoke, run_ok

import setclip_cli as setclip
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.remote import claim
from setclip_cli.remote.copies import copy_of
from setclip_cli.remote.place import parse_place

DATA = "s3://lab/data"


def captions(folder: Path, *texts: str, name: str = "captions.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps({"id": f"{name[0]}{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def texts(place: str = DATA) -> list[str]:
    """What a reader finds there now."""
    found: list[str] = setclip.open_dataset(place).table("caption", columns=["text"])["text"].to_pylist()
    return found


def add(source: Path, *more: object) -> None:
    run_ok("ingest", source, "--modality", "caption", "--out", DATA, *more)


def _kill_at(s3: Any, number: int) -> Callable[[], int]:
    """Ends the writing at the n-th change that the server is asked for; returns how to ask how many there were."""
    changes = [0]

    def fault(method: str, _path: str) -> str | None:
        if method in ("PUT", "POST", "DELETE"):
            changes[0] += 1
            if changes[0] > number:
                return "AccessDenied"
        return None

    s3.fault = fault
    return lambda: changes[0]


@pytest.fixture
def other_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Goes to a machine with a cache of its own."""

    def go(name: str) -> None:
        monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / name))
        monkeypatch.setattr(claim, "machine", lambda: name)

    return go


@pytest.mark.slow
@pytest.mark.parametrize("same_machine", [True, False])
def test_a_writer_that_dies_at_any_change_leaves_the_old_folder_or_the_new_one(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_machine: Callable[[str], None], same_machine: bool
) -> None:
    old, new = [f"old {n}" for n in range(4)], [f"new {n}" for n in range(5)]
    source = captions(tmp_path, *old)
    monkeypatch.setattr(claim, "CLAIM_ENDS_S", -1.0)  # the claim of one that was killed has ended
    before = after = 0
    for number in range(40):
        s3.fault = lambda _method, _path: None
        for key in s3.keys("lab"):
            s3.client.delete_object(Bucket="lab", Key=key)
        other_machine(f"writer-{number}")
        captions(tmp_path, *old)
        add(source)
        captions(tmp_path, *new)
        asked = _kill_at(s3, number)
        code, _, stderr = invoke("ingest", source, "--modality", "caption", "--out", DATA)
        died = code != 0
        assert "Traceback" not in stderr
        s3.fault = lambda _method, _path: None
        if not same_machine:
            other_machine(f"reader-{number}")
        found = texts()
        assert found in (old, new), number
        before += found == old
        after += found == new
        if same_machine or number % 4 == 0:
            add(source)
            assert texts() == new
            assert not [key for key in s3.keys("lab") if ".setclip" in key], number
        if not died:
            assert asked() <= number + 1  # to give back the claim is tried, and no more
            break
    else:
        pytest.fail("never ended")
    assert before > 2
    assert after > 2


@pytest.mark.slow
def test_a_first_command_that_dies_shows_no_dataset_and_goes_on_anywhere(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_machine: Callable[[str], None]
) -> None:
    monkeypatch.setattr(claim, "CLAIM_ENDS_S", -1.0)
    source = captions(tmp_path, "one", "two", "three")
    for number in range(1, 8):
        for key in s3.keys("lab"):
            s3.client.delete_object(Bucket="lab", Key=key)
        other_machine(f"a{number}")
        _kill_at(s3, number)
        code, _, _ = invoke("ingest", source, "--modality", "caption", "--out", DATA)
        s3.fault = lambda _method, _path: None
        if code:
            if "data/dataset.json" not in s3.keys("lab"):
                with pytest.raises(setclip.SetClipError):
                    texts()
            other_machine(f"b{number}")
            add(source)
        assert texts() == ["one", "two", "three"]


def test_what_was_sent_is_not_sent_again(s3: Any, tmp_path: Path) -> None:
    source = captions(tmp_path, "one", "two", "three")
    s3.fault = lambda method, path: "AccessDenied" if method == "PUT" and "dataset.json" in path else None
    code, _, stderr = invoke("ingest", source, "--modality", "caption", "--out", DATA)
    assert code == 3
    assert "s3://lab/data/dataset.json: cannot be written: the server refuses it" in stderr
    s3.fault = lambda _method, _path: None
    s3.asked.clear()
    add(source)
    assert [path for method, path in s3.asked if method == "PUT" and ".parquet" in path] == []
    s3.asked.clear()
    add(source)
    assert [path for method, path in s3.asked if method == "PUT" and ".setclip" not in path] == []


def test_two_writers_at_once_the_second_is_refused(
    s3: Any, tmp_path: Path, other_machine: Callable[[str], None]
) -> None:
    first, second = captions(tmp_path, "a", name="a.jsonl"), captions(tmp_path, "b", name="b.jsonl")
    refused: list[tuple[int, str]] = []

    def seen(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("caption/train-00000.parquet"):
            s3.seen = lambda _method, _path: None
            environment = {**os.environ, "SETCLIP_CACHE": str(tmp_path / "other")}
            words = [sys.executable, "-m", "setclip_cli", "ingest", str(second), "--modality", "caption", "--out", DATA]
            done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
            refused.append((done.returncode, done.stderr))

    s3.seen = seen
    add(first)
    assert refused[0][0] == 3
    assert "another setclip command is writing here" in refused[0][1]
    assert texts() == ["a"]


def test_a_writer_whose_claim_is_gone_changes_nothing_that_readers_see(s3: Any, tmp_path: Path) -> None:
    add(captions(tmp_path, "old"))
    before = s3.state("lab", "data")

    def seen(method: str, path: str) -> None:
        if method == "PUT" and "/.setclip/new-" in path:
            s3.seen = lambda _method, _path: None
            s3.put("lab", "data/.setclip/writer.json", b'{"writer": "another"}')

    s3.seen = seen
    code, _, stderr = invoke("ingest", captions(tmp_path, "new"), "--modality", "caption", "--out", DATA)
    assert code == 3
    assert "another command has taken over" in stderr
    now = {key: value for key, value in s3.state("lab", "data").items() if ".setclip" not in key}
    assert now == before


def test_unfinished_work_is_left_if_somebody_else_has_written_there(
    s3: Any, tmp_path: Path, other_machine: Callable[[str], None]
) -> None:
    other_machine("mine")
    mine, theirs = captions(tmp_path, "mine", name="mine.jsonl"), captions(tmp_path, "theirs", name="theirs.jsonl")
    s3.fault = lambda method, path: "AccessDenied" if method == "PUT" and "dataset.json" in path else None
    assert invoke("ingest", mine, "--modality", "caption", "--out", DATA)[0] == 3
    s3.fault = lambda _method, _path: None
    other_machine("theirs")
    add(theirs)
    other_machine("mine")
    code, _, stderr = invoke("ingest", mine, "--modality", "caption", "--out", DATA)
    assert code == 0
    assert "that beginning is left" in stderr
    assert texts() == ["theirs", "mine"]


def test_a_folder_of_others_is_refused_before_anything_is_copied(s3: Any, tmp_path: Path) -> None:
    s3.put("lab", "data/holiday.jpg", b"0" * 1000)
    code, _, stderr = invoke("ingest", captions(tmp_path, "a"), "--modality", "caption", "--out", DATA)
    assert code == 3
    assert "s3://lab/data: exists but is not a folder that setclip wrote (it holds 'holiday.jpg')" in stderr
    assert s3.keys("lab") == ["data/holiday.jpg"]
    assert s3.gets("holiday") == []


@pytest.mark.parametrize(
    ("out", "source"),
    [("s3://lab/raw/data", "s3://lab/raw"), ("s3://lab/raw", "s3://lab/raw"), ("s3://lab", "s3://lab/raw/a.jsonl")],
)
def test_out_and_source_one_in_the_other_are_refused(s3: Any, out: str, source: str) -> None:
    s3.put("lab", "raw/a.jsonl", b'{"text": "a"}')
    code, _, stderr = invoke("ingest", source, "--modality", "caption", "--out", out)
    assert code == 2
    assert "one in the other" in stderr


def test_web_servers_are_not_written_to(tmp_path: Path) -> None:
    code, _, stderr = invoke("ingest", captions(tmp_path, "a"), "--modality", "caption", "--out", "https://h.test/d")
    assert code == 3
    assert "setclip does not write to https://" in stderr


def test_a_failing_command_sends_nothing_and_says_where_its_files_are(s3: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b"}\n{"id": "c", "text": "x"}\n')
    code, _, stderr = invoke("ingest", path, "--modality", "caption", "--out", DATA)
    assert code == 3
    assert s3.keys("lab") == []
    where = stderr.partition("its files are below ")[2].strip()
    assert (Path(where) / "data" / "rejects.parquet").is_file()


@pytest.mark.slow
def test_ctrl_c_while_files_are_sent_ends_the_command_and_the_same_command_goes_on(s3: Any, tmp_path: Path) -> None:
    source = captions(tmp_path, "one", "two")
    words = [sys.executable, "-m", "setclip_cli", "ingest", str(source), "--modality", "caption", "--out", DATA]
    sent, hold = threading.Event(), threading.Event()

    def seen(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(".parquet"):
            sent.set()
            hold.wait(30)

    s3.seen = seen
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert sent.wait(60)
    running.send_signal(signal.SIGINT)
    s3.seen = lambda _method, _path: None
    hold.set()
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in stderr
    add(source)
    assert texts() == ["one", "two"]
    assert not [key for key in s3.keys("lab") if ".setclip" in key]


@pytest.mark.slow
@pytest.mark.parametrize(("at", "sees"), [("/.setclip/new-", ["old"]), ("/.setclip/commit.json", ["new"])])
def test_kill_9_while_files_are_replaced(s3: Any, tmp_path: Path, at: str, sees: list[str]) -> None:
    source = captions(tmp_path, "old")
    add(source)
    captions(tmp_path, "new")
    words = [sys.executable, "-m", "setclip_cli", "ingest", str(source), "--modality", "caption", "--out", DATA]
    running = subprocess.Popen(words, stderr=subprocess.DEVNULL)

    def kill(method: str, path: str) -> None:
        if method == "PUT" and at in path:
            s3.seen = lambda _method, _path: None
            running.kill()

    s3.seen = kill
    running.wait(timeout=120)
    assert running.returncode == -signal.SIGKILL
    assert texts() == sees
    add(source)  # at once: the process that claimed to write has ended
    assert texts() == ["new"]
    assert not [key for key in s3.keys("lab") if ".setclip" in key]


def test_the_claim_is_given_back_after_an_error(s3: Any, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    assert invoke("ingest", path, "--modality", "caption", "--out", DATA)[0] == 3
    assert s3.keys("lab") == []
    ingest(captions(tmp_path, "a"), DATA, IngestOptions(modality="caption"))
    assert copy_of(parse_place(DATA)).name == "data"
