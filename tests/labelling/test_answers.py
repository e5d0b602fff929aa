"""The journal of answers: on disk before the next question, whole after a kill, and what pairs.csv makes of it."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.files.write_errors import WriteError
from setclip_cli.labelling.answers import Answer, Answers, Question

SIDES = ("image", "caption")


def about(name: str, modality: str = "image") -> Question:
    return Question(kind="partner", modality=modality, id=name)


def partner(name: str, other: str, modality: str = "image") -> Answer:
    return Answer(question=about(name, modality), answer="partner", partner=other)


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_an_answer_is_a_line_on_disk_before_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((tmp_path / "labels.jsonl").read_bytes())
        real(descriptor)

    answers = Answers(tmp_path, SIDES)
    monkeypatch.setattr("setclip_cli.labelling.answers.os.fsync", fsync)
    answers.add(partner("a", "x"))
    assert json.loads(synced[-1])["partner"] == "x"
    assert synced[-1].endswith(b"}\n")


def test_answers_are_the_same_after_reading_them_again(tmp_path: Path) -> None:
    answers = Answers(tmp_path, SIDES)
    answers.add(partner("a", "x"))
    answers.add(Answer(question=about("b"), answer="none", shown=("x", "y")))
    answers.add(Answer(question=about("c"), answer="skip"))
    answers.add(partner("d", "wrong one"))
    assert answers.undo() == about("d")
    answers.look_again()
    again = Answers(tmp_path, SIDES)
    assert again.current == answers.current
    assert [*again.current] == [about("a"), about("b")]  # c is asked again, d was taken back
    assert again.revision == 6
    assert again.undo() is None  # the second look itself is taken back
    assert again.counts() == {"partner": 1, "none": 1, "skip": 1}


def test_undo_goes_back_over_several_answers_and_stops_at_the_first(tmp_path: Path) -> None:
    answers = Answers(tmp_path, SIDES)
    for name in "abc":
        answers.add(partner(name, f"x{name}"))
    assert [answers.undo(), answers.undo()] == [about("c"), about("b")]
    answers.add(partner("b", "better"))
    assert answers.pairs() == [("a", "xa"), ("b", "better")]
    assert [answers.undo(), answers.undo(), answers.undo()] == [about("b"), about("a"), None]
    assert answers.pairs() == []


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_last_line_that_was_cut_short_is_removed_and_the_next_answer_is_whole(tmp_path: Path, cut: int) -> None:
    answers = Answers(tmp_path, SIDES)
    answers.add(partner("a", "x"))
    answers.add(partner("b", "y"))
    journal = tmp_path / "labels.jsonl"
    journal.write_bytes(journal.read_bytes()[:-cut])
    again = Answers(tmp_path, SIDES)
    assert again.pairs() == [("a", "x")]
    again.add(partner("c", "z"))
    assert Answers(tmp_path, SIDES).pairs() == [("a", "x"), ("c", "z")]


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b'{"do":"answer","question":{"kind":"partner","modality":"image","id":"a"},"answer":"partner"}',
        b'{"do":"answer","question":{"kind":"partner","modality":"image","id":"a"},"answer":"right"}',
        b'{"do":"answer","question":{"kind":"check","modality":"image","id":"a"},"answer":"right"}',
        b'{"do":"erase"}',
        b"[]",
    ],
)
def test_a_line_that_is_not_ours_is_named_and_nothing_is_lost(tmp_path: Path, line: bytes) -> None:
    Answers(tmp_path, SIDES).add(partner("a", "x"))
    journal = tmp_path / "labels.jsonl"
    content = journal.read_bytes() + line + b"\n"
    journal.write_bytes(content)
    with pytest.raises(SetClipError, match=r"labels.jsonl: line 2: is not a line") as caught:
        Answers(tmp_path, SIDES)
    assert "remove this line" in caught.value.fix
    assert journal.read_bytes() == content


def test_half_a_line_on_a_full_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(tmp_path, SIDES)
    answers.add(partner("a", "x"))
    before = (tmp_path / "labels.jsonl").read_bytes()
    real = os.write
    calls: list[int] = []

    def write(descriptor: int, content: bytes) -> int:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(descriptor, bytes(content)[:10])

    with monkeypatch.context() as patch:
        patch.setattr("setclip_cli.labelling.answers.os.write", write)
        with pytest.raises(WriteError, match="the disk is full"):
            answers.add(partner("b", "y"))
    assert (tmp_path / "labels.jsonl").read_bytes() == before
    assert answers.pairs() == [("a", "x")]
    assert answers.revision == 1
    answers.add(partner("b", "y"))
    assert Answers(tmp_path, SIDES).pairs() == [("a", "x"), ("b", "y")]


def test_the_tables_hold_partners_and_dashes_of_both_sides_and_pairs_called_wrong(tmp_path: Path) -> None:
    answers = Answers(tmp_path, SIDES)
    answers.add(partner('a "quoted", name', "x\u2028y"))
    answers.add(partner("c7", "b", "caption"))
    answers.add(Answer(question=about("c"), answer="none"))
    answers.add(Answer(question=about("c9", "caption"), answer="none"))
    answers.add(Answer(question=about("d"), answer="skip"))
    answers.write_tables()
    assert table(tmp_path / "pairs.csv") == [
        ["image", "caption"],
        ['a "quoted", name', "x\u2028y"],
        ["b", "c7"],
        ["c", "-"],
        ["-", "c9"],
    ]
    assert not (tmp_path / "wrong.csv").exists()
    suspect = Question(kind="check", modality="image", id="e", partner="z")
    answers.add(Answer(question=suspect, answer="wrong"))
    answers.write_tables()
    assert table(tmp_path / "wrong.csv") == [["image", "caption"], ["e", "z"]]
    answers.undo()
    answers.add(Answer(question=suspect, answer="right"))
    answers.write_tables(gone={about("c")})
    assert table(tmp_path / "wrong.csv") == [["image", "caption"]]
    assert ["c", "-"] not in table(tmp_path / "pairs.csv")
