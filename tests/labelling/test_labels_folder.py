"""A LABELS folder and the DATASET that it asks about."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from label_world import make_dataset, page_of, pools_of
from small_world import run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.labelling import label as labelling
from setclip_cli.labelling.labels_folder import INDEX_NAME, read_labels_file
from setclip_cli.labelling.options import LabelOptions

SIDES = ("image", "caption")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("labels"))


@pytest.fixture
def begun(data: Path, tmp_path: Path) -> Path:
    """A LABELS folder with questions about the images and captions of `data`."""
    with page_of(tmp_path / "labels", pools_of(data), count=3):
        pass
    return tmp_path / "labels"


def test_questions_of_other_sides_are_told_before_rows_are_read(
    data: Path, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = SimpleNamespace(train=SimpleNamespace(split="train"), modalities=lambda: ("radar", "sonar"))
    towers = SimpleNamespace(dataset=open_dataset(data), recipe=recipe)
    monkeypatch.setattr(labelling, "open_towers", lambda *_given, **_options: towers)
    monkeypatch.setattr(labelling, "read_pools", lambda *_given, **_options: pytest.fail("rows were read"))
    with pytest.raises(UsageError, match=r"asks about image and caption rows .* this command about radar and sonar"):
        labelling.label(data, begun, options=LabelOptions(no_browser=True, run="run"))


def test_another_dataset_is_said_and_a_moved_or_a_grown_one_is_not(
    data: Path, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def warned(dataset: Path) -> str:
        read_labels_file(begun, open_dataset(dataset), SIDES, "train")
        return capsys.readouterr().err

    capsys.readouterr()
    assert warned(data) == ""
    moved = shutil.copytree(data, tmp_path / "moved")
    assert warned(moved) == ""
    (tmp_path / "more.jsonl").write_text('{"id": "new", "text": "a new one"}')
    run_ok("ingest", tmp_path / "more.jsonl", "--modality", "caption", "--out", moved)
    capsys.readouterr()
    told = warned(moved)
    assert f"{begun}: was begun with the DATASET {data}, and goes on with {moved}" in told
    with page_of(begun, pools_of(moved)):
        pass
    assert "was begun with" in capsys.readouterr().err
    assert warned(moved) == ""  # it was said once
    (tmp_path / "more.jsonl").write_text('{"id": "newer", "text": "a newer one"}')
    run_ok("ingest", tmp_path / "more.jsonl", "--modality", "caption", "--out", moved)
    capsys.readouterr()
    assert warned(moved) == ""  # the same one, with more rows


def test_an_error_leaves_no_empty_folder_and_takes_nothing_from_one_that_was_there(data: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for name in ("new", "here"):
        with pytest.raises(SetClipError):
            labelling.label(data, tmp_path / name, options=LabelOptions(no_browser=True, run=tmp_path / "nowhere"))
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "here").is_dir()


def test_answers_stay_after_an_error(data: Path, begun: Path) -> None:
    before = (begun / INDEX_NAME).read_bytes()
    with pytest.raises(SetClipError):
        labelling.label(data, begun, options=LabelOptions(no_browser=True, run=begun / "nowhere"))
    assert (begun / INDEX_NAME).read_bytes() == before
