"""Known pairs that a person calls wrong: dropped, counted, and not brought back by what is read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_world import invoke, run_ok

from setclip_cli.dataset.dataset import open_dataset


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two proteins and four texts about them, all pairs known by group."""
    (tmp_path / "p.fasta").write_text(">A\nMKVLAADERTY\n>B\nMSTNPKPQRKT\n")
    lines = [{"id": f"c{number}", "text": f"text {number}", "group": "AB"[number % 2]} for number in range(4)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run_ok("ingest", tmp_path / "p.fasta", "--modality", "protein", "--out", tmp_path / "d")
    run_ok("ingest", tmp_path / "c.jsonl", "--modality", "caption", "--pairs-from-group", "--out", tmp_path / "d")
    return tmp_path / "d"


def known(data: Path) -> set[tuple[str, str]]:
    return {(pair.left_id, pair.right_id) for pair in open_dataset(data).pairs()}


def wrong(data: Path, *pairs: str, header: str = "protein,caption") -> Path:
    path = data.parent / "wrong.csv"
    path.write_text("\n".join([header, *pairs]) + "\n")
    return path


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("protein,caption", "A,c2"),
        ("caption,protein", "c2,A"),
        ("left_modality,left_id,right_modality,right_id", "caption,c2,protein,A"),
    ],
)
def test_a_pair_that_is_dropped_is_gone_and_counted(data: Path, header: str, line: str) -> None:
    file = wrong(data, line, header=header)
    assert "1 known pair dropped" in run_ok("ingest", "--drop-pairs", file, "--out", data)
    assert known(data) == {("A", "c0"), ("B", "c1"), ("B", "c3")}
    assert "known pair dropped" not in run_ok("ingest", "--drop-pairs", file, "--out", data)  # it is gone already
    assert "whole" in run_ok("ingest", "--verify", data)


def test_it_does_not_come_back_with_new_rows_or_from_a_file(data: Path, tmp_path: Path) -> None:
    run_ok("ingest", "--drop-pairs", wrong(data, "A,c2"), "--out", data)
    more = {"id": "c9", "text": "text 9", "group": "A"}
    (tmp_path / "c.jsonl").write_text((tmp_path / "c.jsonl").read_text() + "\n" + json.dumps(more))
    told = run_ok("ingest", tmp_path / "c.jsonl", "--modality", "caption", "--pairs-from-group", "--out", data)
    assert "1 pairs left out: pair was dropped as wrong (first A, c2" in told, told
    assert known(data) == {("A", "c0"), ("B", "c1"), ("B", "c3"), ("A", "c9")}
    (tmp_path / "more.csv").write_text("protein,caption\nA,c2\nA,c1\n")
    told = run_ok("ingest", "--pairs", tmp_path / "more.csv", "--out", data)
    assert "pair was dropped as wrong" in told
    assert known(data) == {("A", "c0"), ("B", "c1"), ("B", "c3"), ("A", "c9"), ("A", "c1")}
    (tmp_path / "only.csv").write_text("protein,caption\nA,c2\n")
    assert "pair was dropped as wrong" in run_ok("ingest", "--pairs", tmp_path / "only.csv", "--out", data)
    run_ok("ingest", "--drop-pairs", wrong(data, "B,c3", "A,c1"), "--out", data)  # those of before stay dropped
    assert known(data) == {("A", "c0"), ("B", "c1"), ("A", "c9")}


def test_pairs_are_added_and_dropped_in_one_command(data: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("protein,caption\nB,c2\n")
    told = run_ok(
        "ingest", "--pairs", tmp_path / "new.csv", "--drop-pairs", wrong(data, "A,c2"), "--out", data, "--json"
    )
    assert (json.loads(told)["pairs"], json.loads(told)["pairs_dropped"]) == (4, 1)
    assert ("B", "c2") in known(data)
    assert ("A", "c2") not in known(data)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("A,c1",), "1 of its 1 pairs are not known pairs, the first in line 2: A, c1"),
        (("A,c2", "Z,c2"), "1 of its 2 pairs are not known pairs, the first in line 3: Z, c2"),
        ((), "there are no pairs in it"),
    ],
)
def test_what_is_no_known_pair_is_an_error_and_nothing_changes(data: Path, lines: tuple[str, ...], words: str) -> None:
    before = (data / "dataset.json").read_bytes()
    code, _, stderr = invoke("ingest", "--drop-pairs", wrong(data, *lines), "--out", data)
    assert code == 3
    assert words in stderr
    assert (data / "dataset.json").read_bytes() == before
    assert len(known(data)) == 4


def test_it_goes_with_no_source(data: Path, tmp_path: Path) -> None:
    words = ("--modality", "caption", "--drop-pairs", wrong(data, "A,c2"), "--out", data)
    code, _, stderr = invoke("ingest", tmp_path / "c.jsonl", *words)
    assert code == 2
    assert "--drop-pairs: is for pairs that a DATASET has" in stderr
