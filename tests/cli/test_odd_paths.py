"""Paths and documents that a command cannot use: always exit 2 or 3 with a message and a fix, no traceback."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_world import invoke, make_world, run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions

LONG = "a" * 300
NOT_UTF8 = os.fsdecode(b"b\xffd")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("paths"))
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_text("text")
    (folder / "folder").mkdir()
    return folder


def refused(*arguments: object) -> str:
    code, _, stderr = invoke(*arguments)
    assert code in (2, 3), stderr
    assert (stderr.startswith("error: ") and "fix: " in stderr) or "Usage: " in stderr  # the second is Typer's own
    return stderr


@pytest.mark.parametrize("name", [LONG, "loop", "file/x", "folder", "missing", NOT_UTF8, "a\0b"])
def test_an_odd_path_is_refused_wherever_a_path_is_given(name: str, world: Path, tmp_path: Path) -> None:
    odd, data, new = world / name, world / "data", tmp_path / "new"
    refused("align", odd, "--data", data, "--out", new)
    refused("align", world / "recipe.toml", "--data", odd, "--out", new)
    refused("embed", odd, data, "--out", new)
    refused("search", odd, "a kinase")
    refused("evaluate", odd, data, "--out", new)
    refused("study", odd, "--data", data, "--out", new)
    refused("ingest", odd, "--modality", "caption", "--out", new)
    refused("ingest", world / "captions.jsonl", "--modality", "caption", "--labels", odd, "--out", new)
    if name not in ("folder", "missing"):
        refused("ingest", world / "captions.jsonl", "--modality", "caption", "--out", odd / "data")


def test_names_that_are_not_utf8_are_refused_with_their_name_or_taken(world: Path, tmp_path: Path) -> None:
    source = tmp_path / f"{NOT_UTF8}.jsonl"
    source.write_text((world / "captions.jsonl").read_text())
    found = refused("ingest", source, "--modality", "caption", "--out", tmp_path / "data")
    assert r"b\xffd" in found
    assert "rename that file or folder so that its name is UTF-8" in found
    weights = world / "text" / "tiny-sentence"
    backbone = ("--backbone", "sentence-transformers:all-MiniLM-L6-v2", "--weights", weights)
    found = refused("embed", *backbone, world / "data", "--out", tmp_path / NOT_UTF8)
    assert "UTF-8" in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"seed = 1\nseed = 2", "not valid TOML"),
        (b"title = '\xff'", "not valid TOML"),
        (b"x = " + b"[" * 100_000, "not valid TOML"),
        (b"seed = " + b"9" * 5000, "not valid TOML"),
        (b"schema_version = 1\nseed = 0x" + b"f" * 5000, "an integer has more than 64 bits"),
        (b"schema_version = 1\n[optim]\nlr = nan", "optim.lr"),
        (b"schema_version = 1\n[optim]\nlr = inf", "optim.lr"),
        (b"\x00", "not valid TOML"),
        (b"\xef\xbb\xbfschema_version = 1", "TOML"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_broken_recipe_or_study_is_refused(text: bytes, says: str, world: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(text)
    assert says in refused("align", path, "--data", world / "data", "--out", tmp_path / "run", "--dry-run", "--json")
    refused("study", path, "--data", world / "data", "--out", tmp_path / "study")
    refused("ingest", path, "--out", tmp_path / "data")


@pytest.mark.parametrize("value", ["optim.lr=nan", "optim.lr=inf", "seed=" + "9" * 5000, "pairs=" + "[" * 5000])
def test_an_odd_value_of_set_is_refused(value: str, world: Path, tmp_path: Path) -> None:
    refused("align", world / "recipe.toml", "--data", world / "data", "--out", tmp_path / "run", "--set", value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema_version": 1, "schema_version": 1, "shards": []}',
        b'{"schema_version": 1, "shards": [], "sources": [{"x": NaN}]}',
        b'{"schema_version": 1, "shards": [], "sources": [{"x": 1e999}]}',
        b'{"schema_version": 1, "shards": [], "sources": [{"x": ' + b"9" * 5000 + b"}]}",
        b"null",
        b'"text"',
        b'{"shards": "\\ud800"}',
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_broken_index_is_refused(text: bytes, world: Path, tmp_path: Path) -> None:
    for name, command in {
        "dataset.json": ("align", world / "recipe.toml", "--data", tmp_path, "--out", tmp_path / "run"),
        "config.json": ("embed", tmp_path, world / "data", "--out", tmp_path / "out"),
        "embeddings.json": ("search", tmp_path, "a kinase"),
    }.items():
        (tmp_path / name).write_bytes(text)
        assert name in refused(*command)


def test_a_recipe_that_a_run_holds_is_read_as_carefully(world: Path, tmp_path: Path) -> None:
    arguments = ("align", world / "recipe.toml", "--data", world / "data", "--out", tmp_path / "run")
    run_ok(*arguments, "--set", "train.steps=2")
    (tmp_path / "run" / "recipe.toml").write_bytes(b"x = " + b"[" * 100_000)
    assert "recipe.toml" in refused(*arguments)


def test_a_working_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = f"cd {shlex.quote(str(gone))} && rmdir ../gone && {shlex.quote(sys.executable)} -m setclip_cli doctor"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: the working folder has been removed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_do_not_end_a_command_or_catch_its_files(tmp_path: Path, closed: str) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    words = f"{shlex.quote(sys.executable)} -m setclip_cli ingest a.txt --modality caption --out data {closed}"
    done = subprocess.run(["sh", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert open_dataset(tmp_path / "data").table("caption").num_rows == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [("n" * 300, "longer than the file system takes"), ("link", "is a link to nowhere"), ("\udce9", "is not UTF-8")],
)
def test_an_output_folder_that_cannot_be_is_refused_before_any_work(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(SetClipError, match=words) as caught:
        ingest(tmp_path / "a.txt", tmp_path / name, IngestOptions(modality="caption"))
    assert "choose another" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "link"]
