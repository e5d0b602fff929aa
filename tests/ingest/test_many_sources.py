"""Many small sources: each costs as much as the one before it, however many there are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import setclip_cli
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.files import atomic
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions

CAPTIONS = IngestOptions(modality="caption")
OURS = str(Path(setclip_cli.__file__).parent)


def texts(root: Path, count: int) -> list[Path]:
    for number in range(count):
        folder = root / f"{number // 10:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 10}.txt").write_text(f"a field, seen for time {number}\n")
    return sorted(root.glob("*/*.txt"))


def work(monkeypatch: pytest.MonkeyPatch, sources: list[Path], out: Path) -> tuple[int, int]:
    """Our function calls of an ingest, and the characters of JSON that it makes: they do not depend on the machine."""
    calls = characters = 0
    dumps = json.dumps

    def count_call(frame: FrameType, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(OURS)

    def count_characters(*args: Any, **options: Any) -> str:
        nonlocal characters
        text = dumps(*args, **options)
        characters += len(text)
        return text

    monkeypatch.setattr(json, "dumps", count_characters)
    sys.setprofile(count_call)
    try:
        ingest(sources, out, CAPTIONS)
    finally:
        sys.setprofile(None)
        monkeypatch.undo()
    return calls, characters


@pytest.mark.parametrize("again", [False, True], ids=["new", "unchanged"])
def test_a_source_costs_no_more_after_many_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    sources = texts(tmp_path / "in", 45)
    done = []
    for count in (15, 30, 45):
        out = tmp_path / f"out-{count}"
        if again:
            ingest(sources[:count], out, CAPTIONS)
        done.append(work(monkeypatch, sources[:count], out))
    for few, some, many in zip(*done, strict=True):
        assert 0 < many - some < 1.05 * (some - few)


def test_the_journal_is_written_over_only_if_it_holds_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, written, write = texts(tmp_path / "in", 12), [], atomic.write_text

    def spy(target: Path, content: str, *, sync: bool = True) -> None:
        if target.name == "journal.jsonl":
            written.append(content.count("\n"))
        if target.name == "dataset.json" and not stop:
            raise KeyboardInterrupt
        write(target, content, sync=sync)

    monkeypatch.setattr(atomic, "write_text", spy)
    stop: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        ingest(sources, tmp_path / "out", CAPTIONS)
    assert written == [0]
    with pytest.raises(KeyboardInterrupt):  # all sources are on record
        ingest(sources, tmp_path / "out", CAPTIONS)
    assert written == [0]
    journal = tmp_path / "out" / ".ingest" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:9], lines[9][:50]]))  # as a kill may leave it
    stop.append(1)
    ingest(sources, tmp_path / "out", CAPTIONS)
    assert written == [0, 9]
    ingest(sources, tmp_path / "whole", CAPTIONS)
    assert open_dataset(tmp_path / "out").identity() == open_dataset(tmp_path / "whole").identity()
