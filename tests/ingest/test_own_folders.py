"""A source around what setclip writes: the files of setclip would be read as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from setclip_cli.errors import UsageError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions

IMAGES = IngestOptions(modality="image")


def pictures(folder: Path, count: int = 2) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("out", ["in", "in/data", "in/deep/data", "in/../in/data"])
def test_a_dataset_in_its_source_is_refused_before_anything_is_written(tmp_path: Path, out: str) -> None:
    source = pictures(tmp_path / "in")
    with pytest.raises(UsageError, match=r"SOURCE(.|\n)*beside it, such as .*/in-dataset"):
        ingest(source, tmp_path / out, IMAGES)
    assert names_in(tmp_path) == {"in", "in/0.png", "in/1.png"}


def test_a_dataset_behind_a_link_of_its_source_is_refused(tmp_path: Path) -> None:
    source, store = pictures(tmp_path / "in"), pictures(tmp_path / "store", 3)
    (source / "more").symlink_to(store)
    with pytest.raises(UsageError, match="is inside the SOURCE"):
        ingest(source, store / "data", IMAGES)
    assert not (store / "data").exists()


def test_a_source_in_its_dataset_is_refused(tmp_path: Path) -> None:
    ingest(pictures(tmp_path / "in"), tmp_path / "data", IMAGES)
    inside = tmp_path / "data" / "more.jsonl"
    inside.write_text('{"text": "a lake"}\n')
    before = names_in(tmp_path)
    with pytest.raises(UsageError, match="move the SOURCE out of it"):
        ingest(inside, tmp_path / "data", IngestOptions(modality="caption"))
    assert names_in(tmp_path) == before


def test_another_dataset_in_a_source_is_refused(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in")
    ingest(source, tmp_path / "old", IMAGES)
    (tmp_path / "old").rename(source / "old")
    with pytest.raises(UsageError, match=r"in/old is a DATASET\n"):
        ingest(source, tmp_path / "new", IMAGES)
    with pytest.raises(UsageError, match=r"old is a DATASET\n"):
        ingest(source / "old", tmp_path / "new", IMAGES)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (("embeddings.json", "image/test-00000.parquet"), "an EMBEDDINGS folder"),
        (("recipe.toml", "model.safetensors"), "a RUN"),
        (("report.json", "report.html"), "a REPORT"),
    ],
)
def test_our_other_folders_in_a_source_are_refused(tmp_path: Path, files: tuple[str, str], kind: str) -> None:
    source = pictures(tmp_path / "in")
    for name in files:
        (source / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "made" / name).write_text("{}")
    with pytest.raises(UsageError, match=f"in/made is {kind}"):
        ingest(source, tmp_path / "new", IMAGES)


def test_the_cache_in_a_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pictures(tmp_path / "in")
    (source / "cache" / "features").mkdir(parents=True)
    (source / "cache" / "features" / "a.npy").write_bytes(b"x")
    monkeypatch.setenv("SETCLIP_CACHE", str(source / "cache"))
    with pytest.raises(UsageError, match="in/cache is the cache of setclip"):
        ingest(source, tmp_path / "new", IMAGES)


def test_names_of_ours_that_others_use_too_are_taken(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in")
    (source / "dataset.json").write_text(json.dumps({"images": []}))  # the captions of Flickr8k are in such a file
    (source / "image").mkdir()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(source / "image" / "train-00000.png")
    (source / "recipe.toml").write_text("")
    assert ingest(source, tmp_path / "in-dataset", IMAGES).rows == {"image": {"train": 3}}
