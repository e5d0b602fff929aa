"""Folders and files named train, val or test give the split, and never a label."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.modality import Modality
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.sources.split_folders import FolderNames, split_of_file, split_of_folder


def png(seed: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def folder(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number))
    return root


def rows(out: Path) -> dict[str, tuple[str, str | None]]:
    found = open_dataset(out).table("image", None, ["id", "split", "label"]).to_pylist()
    return {row["id"]: (row["split"], row["label"]) for row in found}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((word, "train") for word in ("train", "Training", "TRAIN", "train2017", "train_images", "images-train")),
        *((word, "val") for word in ("val", "valid", "Validation", "dev", "val2014")),
        *((word, "test") for word in ("test", "testing", "Test Images", "test-set", "test-00000-of-00002")),
        *((word, None) for word in ("latest", "trains", "trainval", "train+val", "contest", "dev-board", "train.old")),
        *((word, None) for word in ("train_test", "vale", "2017", "images", "")),
    ],
)
def test_the_words_that_name_a_split(name: str, split: str | None) -> None:
    assert split_of_folder(name) == split


@pytest.mark.parametrize(
    ("path", "split", "label"),
    [
        ("images/train/cat/1.png", "train", "cat"),
        ("images/cat/test/1.png", "test", "cat"),  # the class is the innermost folder that names no split
        ("train/test/1.png", "train", None),  # the outermost wins
        ("dog/1.png", None, "dog"),
        ("1.png", None, None),
    ],
)
def test_the_outermost_split_and_the_innermost_class(path: str, split: str | None, label: str | None) -> None:
    paths = ["images/train/cat/1.png", "images/cat/test/1.png", "train/test/1.png", "dog/1.png", "1.png"]
    assert FolderNames("data", paths).of(path) == (split, label)


def test_folders_of_splits_alone_give_no_label(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", ["images/train/a.png", "images/test/b.png", "images/val/c.png"])
    ingest(root, tmp_path / "out", IngestOptions(modality="image"))
    assert rows(tmp_path / "out") == {
        "images/train/a.png": ("train", None),
        "images/test/b.png": ("test", None),
        "images/val/c.png": ("val", None),
    }


def test_the_option_wins_over_the_folders(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", ["train/cat/a.png", "test/dog/b.png"])
    result = ingest(root, tmp_path / "all", IngestOptions(modality="image", split="train"))
    assert rows(tmp_path / "all") == {"train/cat/a.png": ("train", "cat"), "test/dog/b.png": ("train", "dog")}
    assert result.new[0]["repairs"] == {}
    drawn = ingest(root, tmp_path / "drawn", IngestOptions(modality="image", split="val=1.0"))
    assert set(drawn.rows["image"]) == {"val"}


def test_the_name_of_a_source_gives_its_split_and_the_summary_says_so(tmp_path: Path) -> None:
    root = folder(tmp_path, ["data/train/cat/a.png", "data/train/dog/b.png", "data/Test/cat/c.png"])
    result = ingest([root / "data/train", root / "data/Test"], tmp_path / "out", IngestOptions(modality="image"))
    assert rows(tmp_path / "out") == {
        "cat/a.png": ("train", "cat"),
        "dog/b.png": ("train", "dog"),
        "cat/c.png": ("test", None),
    }
    assert "1 changed: put into split test, as a folder's name says" in result.summary()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_give_what_folders_give(tmp_path: Path, kind: str) -> None:
    names = ["train/cat/a.png", "val/dog/b.png"]
    path = tmp_path / f"all.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for number, name in enumerate(names):
                archive.writestr(name, png(number))
    else:
        with tarfile.open(path, "w") as tar:
            for number, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size = len(png(number))
                tar.addfile(info, io.BytesIO(png(number)))
    ingest(path, tmp_path / "out", IngestOptions(modality="image"))
    assert rows(tmp_path / "out") == {"train/cat/a.png": ("train", "cat"), "val/dog/b.png": ("val", "dog")}


def test_the_images_and_captions_of_a_shard_named_by_its_split_stay_together(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "val-000.tar", "w") as tar:
        for name, content in (("1.png", png(0)), ("1.txt", b"a lake")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    ingest(tmp_path / "val-000.tar", tmp_path / "out", IngestOptions(modality="image"))
    result = ingest(
        tmp_path / "val-000.tar", tmp_path / "out", IngestOptions(modality="caption", pairs_from_group=True)
    )
    assert result.rows == {"image": {"val": 1}, "caption": {"val": 1}}
    assert result.pairs == 1


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train.jsonl", "train"),
        ("data/test.csv", "test"),
        ("data/captions_val2017.json", "val"),
        ("data/dataset_train.csv", "train"),
        ("data/Validation.TSV.gz", "val"),
        ("data/train-00000-of-00004.parquet", "train"),
        ("data/test-00000-of-00001-b21a0d5e8f3c4a17.parquet", "test"),
        ("data/val_proteins.fasta.zst", "val"),
        ("data/validation.tar.gz", "val"),
        ("train/captions.txt", "train"),
        ("data/test/0000.parquet", "test"),
        ("val/val.jsonl", "val"),
        ("train/test.jsonl", None),  # they contradict each other
        ("test/data/a.jsonl", None),  # only its own folder counts
        ("data/rsicd_test.csv", None),
        ("data/steam_train.txt", None),
        ("data/unit-test.txt", None),
        ("data/latest.txt", None),
        ("data/trainval.json", None),
        ("data/train_val.json", None),
        ("data/contest", None),
    ],
)
def test_what_the_place_of_a_file_says(path: str, split: str | None) -> None:
    assert split_of_file(Path("/home") / path).split == split


def splits(out: Path, modality: Modality) -> dict[str, str]:
    table = open_dataset(out).table(modality, None, ["id", "split"]).to_pylist()
    return {row["id"]: row["split"] for row in table}


def test_files_of_captions_in_split_folders(tmp_path: Path) -> None:
    paths = [tmp_path / "train/captions.txt", tmp_path / "test/captions.txt", tmp_path / "data/rsicd_val.txt"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"a {path.parent.name}\n")
    result = ingest(paths, tmp_path / "out", IngestOptions(modality="caption"))
    assert splits(tmp_path / "out", "caption") == {
        "captions.txt:1": "train",
        "test/captions.txt:1": "test",
        "rsicd_val.txt:1": "train",
    }
    summary = result.summary()
    assert "1 changed: put into split train, as the name of its folder says" in summary
    assert "1 changed: put into split test, as the name of its folder says" in summary
    assert "1 changed: put into split train, although the name of its file holds 'val': choose with --split" in summary
    ingest(paths, tmp_path / "all", IngestOptions(modality="caption", split="val"))
    assert set(splits(tmp_path / "all", "caption").values()) == {"val"}
    drawn = ingest(paths, tmp_path / "drawn", IngestOptions(modality="caption", split="val=1.0"))
    assert set(drawn.rows["caption"]) == {"val"}


def test_the_split_of_a_record_comes_before_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text('{"text": "a", "id": "a", "split": "validation"}\n{"text": "b", "id": "b"}\n')
    ingest(path, tmp_path / "out", IngestOptions(modality="caption"))
    assert splits(tmp_path / "out", "caption") == {"a": "val", "b": "test"}


def test_proteins_tables_of_images_archives_and_single_images(tmp_path: Path) -> None:
    (tmp_path / "val.fasta").write_text(">A\nMKVLA\n")
    ingest(tmp_path / "val.fasta", tmp_path / "out", IngestOptions(modality="protein", captions_from="name"))
    pq.write_table(pa.table({"image": [png(1)], "id": ["a"]}), tmp_path / "test-00000-of-00001.parquet")
    (tmp_path / "test").mkdir()
    with zipfile.ZipFile(tmp_path / "test/images.zip", "w") as archive:
        archive.writestr("b.png", png(2))
    folder(tmp_path, ["test/c.png", "test.png"])
    (tmp_path / "test.png").write_bytes(png(7))
    sources = ["test-00000-of-00001.parquet", "test/images.zip", "test/c.png", "test.png"]
    ingest([tmp_path / name for name in sources], tmp_path / "out", IngestOptions(modality="image"))
    assert splits(tmp_path / "out", "protein") == {"A": "val"}
    assert splits(tmp_path / "out", "image") == {"a": "test", "b.png": "test", "c.png": "test", "test.png": "train"}


def test_a_second_ingest_of_a_file_named_by_its_split_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    path.write_text("".join(f"caption {number}\n" for number in range(9)))
    ingest(path, tmp_path / "out", IngestOptions(modality="caption"), shard_rows=2)
    before = (tmp_path / "out" / "dataset.json").read_bytes()
    again = ingest(path, tmp_path / "out", IngestOptions(modality="caption"), shard_rows=2)
    assert again.unchanged
    assert (tmp_path / "out" / "dataset.json").read_bytes() == before
