"""Several modalities in one command, and pairs under the names of two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_world import invoke, run_ok

from setclip_cli.dataset.dataset import open_dataset

ROWS = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", draw.normal(size=(ROWS, 6)).astype(np.float32))
    np.save(tmp_path / "b=c.npy", draw.normal(size=(ROWS, 4)).astype(np.float32))
    notes = [
        json.dumps({"id": f"n{number}", "text": f"note {number}", "about": f"x{number}"}) for number in range(ROWS)
    ]
    (tmp_path / "notes.jsonl").write_text("\n".join(notes))
    return tmp_path


def test_the_dataset_is_that_of_single_commands(folder: Path) -> None:
    pairs = folder / "pairs.csv"
    pairs.write_text("audio,caption\n" + "\n".join(f"{row},n{row}" for row in range(5)))
    one, many = folder / "one", folder / "many"
    named = [f"audio={folder / 'a.npy'}", f"caption={folder / 'notes.jsonl'}"]
    told = run_ok("ingest", *named, "--kind", "vector", "--text-column", "about", "--pairs", pairs, "--out", one)
    assert "5 known pairs" in told
    assert f"{ROWS} caption rows" in told
    run_ok("ingest", folder / "a.npy", "--modality", "audio", "--kind", "vector", "--out", many)
    captions = ["--modality", "caption", "--text-column", "about", "--pairs", pairs]
    run_ok("ingest", folder / "notes.jsonl", *captions, "--out", many)
    assert (one / "dataset.json").read_bytes() == (many / "dataset.json").read_bytes()
    assert open_dataset(one).table("caption")["text"][0].as_py() == "x0"


def test_it_goes_on_and_adds_as_a_single_command_does(folder: Path) -> None:
    out = folder / "d"
    run_ok("ingest", f"audio={folder / 'a.npy'}", "--kind", "vector", "--out", out)
    told = run_ok("ingest", f"audio={folder / 'a.npy'}", f"caption={folder / 'notes.jsonl'}", "--out", out)
    assert "a.npy: unchanged, not read again" in told
    assert open_dataset(out).modalities() == ["caption", "audio"]


def test_a_path_with_an_equals_sign_is_a_path(folder: Path) -> None:
    out = folder / "d"
    run_ok("ingest", folder / "b=c.npy", "--modality", "audio", "--kind", "vector", "--out", out)
    run_ok("ingest", f"video={folder / 'b=c.npy'}", "--kind", "vector", "--out", out)
    assert open_dataset(out).modalities() == ["audio", "video"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["audio={a}", "{notes}", "--kind", "vector"], 2, "has no name, and other sources have one"),
        (["audio={a}", "caption={notes}"], 2, "audio: the kind of its rows is not known"),
        (["audio={a}", "caption={none}", "--kind", "vector"], 3, "none.jsonl: no such file"),
        (["audio={a}", "caption={notes}", "--kind", "vector", "--pairs", "{none}"], 3, "none.jsonl"),
        (["audio={a}", "caption={notes}", "--kind", "vector", "--tile", "8"], 2, "--tile: is for image rows"),
        (["audio={a}", "video={a}", "--kind", "vector", "--ids", "{notes}"], 2, "--ids: is for one modality"),
        (["audio={a}", "video={a}", "--kind", "vector", "--encoder", "clap"], 2, "--encoder: is for one modality"),
        (["audio={a}", "--kind", "vector", "--near-duplicates", "drop"], 2, "--near-duplicates: is for image rows"),
        (["Audio={a}", "--kind", "vector"], 2, "such as audio="),
        (["2nd={a}", "caption={notes}", "--kind", "vector"], 2, "the name '2nd' is not a small letter"),
        (["=={none}", "--kind", "vector"], 2, "--modality is missing"),
        (["audio={a}", "--modality", "audio", "--kind", "vector"], 2, "leave out --modality audio"),
        (["audio={none}", "--modality", "audio", "--kind", "vector"], 3, "no such file"),
        (["audio={a}", "note={notes}", "--kind", "vector"], 3, "--kind protein, image or text"),
    ],
)
def test_a_mistake_is_found_before_anything_is_written(
    folder: Path, arguments: list[str], code: int, words: str
) -> None:
    places = {"a": folder / "a.npy", "notes": folder / "notes.jsonl", "none": folder / "none.jsonl"}
    filled = [argument.format(**places) for argument in arguments]
    found, stdout, stderr = invoke("ingest", *filled, "--out", folder / "d")
    assert (found, stdout) == (code, "")
    assert words in stderr
    assert not (folder / "d" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("audio,audio\n0,1\n", "line 1 must name two modalities, and it is audio, audio"),
        ("audio,video\n0,1\n", "line 1 must name two modalities, and it is audio, video"),
        ("left,right\n0,n1\n", "the names can be: protein, image, caption, audio"),
        ("audio,caption,image\n0,n1,x\n", "line 1 must name two modalities"),
        ("0,n1\n1,n2\n", "and it is 0, n1"),
        ("", "line 1 must name two modalities, and it is empty"),
        ("audio,left_id\n0,n1\n", "no column 'left_modality' among audio, left_id"),
        ("sep=;\naudio;caption\n0;n1\n", ""),
        ("# audio,caption\n0,n1\n", ""),
        ("score,audio,caption\n0.5,0,n1\n", ""),
        ('"caption"|"audio"\n"n1"|"0"\n', ""),
        ("audio,caption\n0\n", "line 2: has 1 fields"),
        ("audio;caption\n0;n1\n1;n2\n", ""),
        ("﻿Audio,Caption\n0,n1\n", ""),
        ("audio,caption\n", "there are no pairs in it"),
        ("audio,caption\n999,n1\n", "none of the 1 audio ids"),
    ],
)
def test_the_header_of_pairs_may_be_two_names(folder: Path, content: str, words: str) -> None:
    out, pairs = folder / "d", folder / "pairs.csv"
    pairs.write_text(content, encoding="utf-8")
    run_ok("ingest", f"audio={folder / 'a.npy'}", f"caption={folder / 'notes.jsonl'}", "--kind", "vector", "--out", out)
    code, _, stderr = invoke("ingest", "--pairs", pairs, "--out", out)
    assert (code, words in stderr) == (3 if words else 0, True)
    if not words:
        assert {pair.left_id for pair in open_dataset(out).pairs()} <= {"n1", "n2"}


def test_numbers_mean_the_rows_of_the_one_file_only(folder: Path) -> None:
    """Two files of vectors both have a row 0."""
    out, pairs = folder / "d", folder / "pairs.csv"
    both = [folder / "a.npy", folder / "more" / "a2.npy"]
    both[1].parent.mkdir()
    np.save(both[1], np.ones((3, 6), np.float32) * np.arange(1, 4)[:, None].astype(np.float32))
    run_ok("ingest", *both, "--modality", "audio", "--kind", "vector", "--out", out)
    run_ok("ingest", folder / "notes.jsonl", "--modality", "caption", "--out", out)
    pairs.write_text("audio,caption\n0,n0\na2.npy:1,n1\n7,n2\n")
    told = run_ok("ingest", "--pairs", pairs, "--out", out)
    assert "1 pairs left out: several rows have the id that a pair names" in told
    assert {pair.right_id for pair in open_dataset(out).pairs()} == {"a2.npy:1", "a.npy:7"}
