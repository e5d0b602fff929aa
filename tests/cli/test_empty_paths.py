"""An empty path, as the value of a variable that is not set: it is refused, and is not the current folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_world import invoke

import setclip_cli as setclip
from setclip_cli.errors import UsageError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("ingest", "", "--modality", "image", "--out", "new"), "an argument is empty"),
        (("ingest", "c.txt", " ", "--modality", "caption", "--out", "new"), "an argument is empty"),
        (("ingest", "c.txt", "--modality", "caption", "--out", ""), "--out is empty"),
        (("ingest", "c.txt", "--modality", "caption", "--out="), "--out is empty"),
        (("ingest", "c.txt", "--modality", "caption", "--labels", "", "--out", "new"), "--labels is empty"),
        (("ingest", "c.txt", "--modality", "caption", "--pairs= ", "--out", "new"), "--pairs is empty"),
        (("align", "recipe.toml", "--data", "\t", "--out", "new"), "--data is empty"),
        (("embed", "", "data", "--out", "new"), "an argument is empty"),
        (("evaluate", "run", "data", "--out", ""), "--out is empty"),
        (("verify", ""), "an argument is empty"),
        (("quickstart", "--out", ""), "--out is empty"),
    ],
)
def test_an_empty_word_is_refused_by_every_command(
    words: tuple[str, ...], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.txt").write_text("a lake\n")
    code, _, stderr = invoke(*words)
    assert (code, named in stderr, "variable" in stderr) == (2, True, True), stderr
    assert [path.name for path in tmp_path.iterdir()] == ["c.txt"]


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_path_is_refused_in_python(empty: str, tmp_path: Path) -> None:
    source = tmp_path / "c.txt"
    source.write_text("a lake\n")
    calls: list[Any] = [
        lambda: ingest(empty, tmp_path / "new", IngestOptions(modality="image")),
        lambda: ingest([source, empty], tmp_path / "new", IngestOptions(modality="caption")),
        lambda: ingest(source, empty, IngestOptions(modality="caption")),
        lambda: IngestOptions(labels=empty),
        lambda: IngestOptions(pairs=empty),
        lambda: setclip.open_dataset(empty),
        lambda: setclip.load_model(empty),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="is empty"):
            call()
    assert not (tmp_path / "new").exists()
