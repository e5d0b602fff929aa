"""Claims about output folders: ours are gone on with, others are left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive


@pytest.mark.parametrize("content", [None, [], [".lock"], ["recipe.toml"], [".lock", "recipe.toml", "notes.txt"]])
def test_a_folder_is_ours_if_it_is_new_or_empty_or_holds_a_mark(tmp_path: Path, content: list[str] | None) -> None:
    if content is not None:
        (tmp_path / "out").mkdir()
    for name in content or ():
        (tmp_path / "out" / name).touch()
    refuse_foreign(tmp_path / "out", "a RUN folder", ["recipe.toml"])
    assert (tmp_path / "out").exists() == (content is not None)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (["thesis.tex"], r"it holds 'thesis\.tex'"),
        ([".lock", "d", "c", "b", "a"], r"it holds 'a', 'b', 'c', \.\.\."),
    ],
)
def test_a_folder_of_other_things_is_refused_and_unchanged(tmp_path: Path, content: list[str], found: str) -> None:
    for name in content:
        (tmp_path / name).write_text("years of work")
    with pytest.raises(SetClipError, match=rf"exists but is not a RUN folder \({found}\)") as error:
        refuse_foreign(tmp_path, "a RUN folder", ["recipe.toml"])
    assert "choose another --out" in error.value.for_command_line()[1]
    assert {path.name for path in tmp_path.iterdir()} == set(content)


def test_a_file_is_refused_and_a_file_above_is_named_by_the_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SetClipError, match=r"is not a RUN folder \(it is a file\)"):
        refuse_foreign(tmp_path / "file", "a RUN folder", [])
    refuse_foreign(tmp_path / "file" / "run", "a RUN folder", [])
    with pytest.raises(SetClipError, match="cannot be written to"), exclusive(tmp_path / "file" / "run"):
        pass


INDEXES = {
    "config.json": {"schema_version": 1, "method": "clip", "towers": {}, "dataset_sha256": "0"},
    "dataset.json": {"schema_version": 2, "shards": []},
    "embeddings.json": {"schema_version": 1, "shards": [], "towers": {}},
}


@pytest.mark.parametrize("below", ["new", "checkpoints/deep/new"])
@pytest.mark.parametrize("index", INDEXES)
def test_nothing_is_written_into_a_folder_whose_files_are_all_listed(tmp_path: Path, index: str, below: str) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / index).write_text(json.dumps(INDEXES[index]))
    (tmp_path / "link").symlink_to(whole)
    for out in (whole / below, tmp_path / "link" / below):
        with pytest.raises(SetClipError, match=f"is inside {whole}, which is ") as caught:
            refuse_foreign(out, "an export", ["mark"])
        assert caught.value.fix == f"choose out beside it, such as {whole}-new"
    assert [path.name for path in whole.iterdir()] == [index]


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"towers": 3}', '{"shards": []}'])
@pytest.mark.parametrize("index", INDEXES)
def test_an_index_of_another_program_is_no_reason(tmp_path: Path, index: str, content: str) -> None:
    (tmp_path / index).write_text(content)
    refuse_foreign(tmp_path / "new", "an export", ["mark"])


@pytest.mark.parametrize("index", INDEXES)
def test_what_is_above_and_cannot_be_an_index_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    """A pipe would be waited for without end, and a huge file would fill the memory."""
    os.mkfifo(tmp_path / index)
    refuse_foreign(tmp_path / "new", "an export", ["mark"])
    (tmp_path / index).unlink()
    (tmp_path / index).write_text(json.dumps(INDEXES[index]))
    monkeypatch.setattr("setclip_cli.files.folders._INDEX_BYTES", 10)
    refuse_foreign(tmp_path / "new", "an export", ["mark"])
