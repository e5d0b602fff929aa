"""A DATASET as a notebook opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny
from pydantic import ValidationError

from setclip_cli.dataset.dataset import INDEX_NAME, Dataset, DatasetIndex, Shard, open_dataset, write_shard
from setclip_cli.dataset.schemas import OPTIONAL_COLUMNS, schema_of
from setclip_cli.dataset.verify import verify
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions


def caption_shard(root: Path, split: str, ids: list[str]) -> None:
    rows = [
        {"id": name, "split": split, "source": "c", "sha256": "0", "label": None, "text": name, "group": None}
        for name in ids
    ]
    table = pa.Table.from_pylist(rows, schema=schema_of("text"))
    if split == "test":
        table = table.append_column(pa.field("crs", OPTIONAL_COLUMNS["crs"]), [["x"] * len(ids)])
    shard = write_shard(root, f"caption/{split}-00000.parquet", table, modality="caption", split=split)
    index = open_dataset(root).index if (root / INDEX_NAME).exists() else DatasetIndex(shards=[])
    (root / INDEX_NAME).write_text(index.model_copy(update={"shards": [*index.shards, shard]}).model_dump_json())


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    caption_shard(tmp_path, "train", ["a", "b"])
    caption_shard(tmp_path, "test", ["c"])
    return open_dataset(str(tmp_path))


def test_a_table_holds_every_row_and_column_unless_told_otherwise(dataset: Dataset) -> None:
    everything = dataset.table("caption")
    assert everything["id"].to_pylist() == ["c", "a", "b"]  # in the order of the shards' names
    assert everything["crs"].to_pylist() == ["x", None, None]
    assert dataset.table("caption", "train", ["text"]).to_pydict() == {"text": ["a", "b"]}
    assert dataset.pairs() == []


@pytest.mark.parametrize(
    ("modality", "split", "words"),
    [("image", None, "holds no image rows, only caption"), ("caption", "trian", "did you mean 'train'")],
)
def test_rows_that_are_not_there_are_named(dataset: Dataset, modality: str, split: str | None, words: str) -> None:
    with pytest.raises(SetClipError, match=words):
        dataset.table(modality, split)  # type: ignore[arg-type]


def test_a_folder_without_an_index_is_not_a_finished_dataset(tmp_path: Path) -> None:
    with pytest.raises(SetClipError, match="is not a finished DATASET"):
        open_dataset(str(tmp_path))


def ingested(folder: Path) -> Path:
    """A DATASET with captions, a pair and a reject."""
    (folder / "c.jsonl").write_text('{"id": "c", "text": "one", "group": "p"}\n{"id": "d"}\n')
    (folder / "p.fasta").write_text(">p\nMKV\n>q\nMKL\n")
    out = folder / "data"
    ingest(folder / "p.fasta", out, IngestOptions(modality="protein"))
    ingest(folder / "c.jsonl", out, IngestOptions(modality="caption", pairs_from_group=True))
    return out


USES: dict[str, Callable[[Dataset], object]] = {
    "caption/train-00000.parquet": lambda dataset: dataset.table("caption", columns=["id"]),
    "protein/train-00000.parquet": lambda dataset: dataset.read(dataset.shards("protein")[0], ["id"]),
    "pairs.parquet": lambda dataset: dataset.pairs(),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("at", [0, 0.3, 0.999])
def test_a_changed_byte_anywhere_is_refused_before_use(tmp_path: Path, name: str, at: float) -> None:
    root = ingested(tmp_path)
    content = bytearray((root / name).read_bytes())
    content[int(at * len(content))] ^= 1
    (root / name).write_bytes(content)
    with pytest.raises(SetClipError, match=f"{name}: has changed since ingest"):
        USES[name](open_dataset(root))
    (root / name).unlink()
    with pytest.raises(SetClipError, match=f"{name}: is missing; dataset.json lists it"):
        USES[name](open_dataset(root))


def test_an_index_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = ingested(tmp_path) / "dataset.json"
    path.write_text(path.read_text().replace('"rows": 1', '"rows": 2', 1))
    with pytest.raises(SetClipError, match=r"dataset\.json: has changed since setclip wrote it"):
        open_dataset(path.parent)


def test_a_pairs_file_that_the_index_does_not_list_is_not_used(tmp_path: Path) -> None:
    root = ingested(tmp_path)
    tiny.edit_document(root / INDEX_NAME, lambda index: index["files"].pop("pairs.parquet"))
    with pytest.raises(SetClipError, match=r"pairs\.parquet: dataset\.json does not list it"):
        open_dataset(root).pairs()


def test_the_identity_is_that_of_the_index_as_it_was_opened(tmp_path: Path) -> None:
    root = ingested(tmp_path)
    opened = open_dataset(root)
    before = opened.identity()
    (tmp_path / "more.txt").write_text("two\n")
    ingest(tmp_path / "more.txt", root, IngestOptions(modality="caption"))
    assert opened.identity() == before != open_dataset(root).identity()
    assert opened.table("caption")["id"].to_pylist() == ["c"]


def test_an_ingest_that_replaced_a_shard_meanwhile_is_named(tmp_path: Path) -> None:
    root = ingested(tmp_path)
    opened = open_dataset(root)
    (tmp_path / "p.fasta").write_text(">p\nMKV\n>q\nMKI\n")
    ingest(tmp_path / "p.fasta", root, IngestOptions(modality="protein"))
    with pytest.raises(SetClipError, match=r"an ingest has changed .* since this command opened it") as error:
        opened.table("protein")
    assert "run this command again" in error.value.fix


BAD_SHARDS: list[dict[str, Any]] = [
    {"path": "../outside.parquet"},
    {"path": "/tmp/outside.parquet"},
    {"path": "caption/../../outside-00000.parquet"},
    {"path": "caption/./train-00000.parquet"},
    {"path": "caption//train-00000.parquet"},
    {"path": "caption\\train-00000.parquet"},
    {"path": "protein/train-00000.parquet"},
    {"path": "caption/test-00000.parquet"},
    {"path": "caption/train-0.parquet"},
    {"path": "caption/train-00000.parquet\n"},
    {"path": "caption/train-٠٠٠٠٠.parquet"},
    {"path": "caption/train-00000.json"},
    {"path": "caption/../../x-00000.parquet", "split": "../../x"},
    {"path": "caption/a/b-00000.parquet", "split": "a/b"},
    {"path": "caption/-00000.parquet", "split": ""},
    {"modality": "../caption"},
    {"rows": -1},
    {"rows": "1"},
    {"bytes": -1},
    {"sha256": "x"},
]


@pytest.mark.parametrize("change", BAD_SHARDS, ids=str)
def test_a_shard_can_only_be_a_file_of_its_modality_and_split(change: dict[str, Any]) -> None:
    entry = {
        "path": "caption/train-00000.parquet",
        "modality": "caption",
        "split": "train",
        "rows": 1,
        "bytes": 1,
        "sha256": "0" * 64,
    }
    Shard(**entry)
    with pytest.raises(ValidationError):
        Shard(**{**entry, **change})


def test_an_index_lists_a_path_once_and_its_sources_name_no_other(tmp_path: Path) -> None:
    shard = open_dataset(ingested(tmp_path)).index.shards[0].model_dump()
    with pytest.raises(ValidationError, match="is listed 2 times"):
        DatasetIndex(shards=[shard, shard])
    for named in (["../x"], [shard["path"], "caption/train-00009.parquet"], "caption/train-00000.parquet", [1]):
        with pytest.raises(ValidationError, match=r"sources\.0\.shards"):
            DatasetIndex(shards=[shard], sources=[{"shards": named}])
    with pytest.raises(ValidationError, match="files"):
        DatasetIndex(shards=[shard], files={"../rejects.parquet": "0" * 64})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("modality", "said", "words"),
    [
        ("audio", {"width": 3}, r"vectors are fixed_size_list.*\[4\], and dataset.json says .*\[3\]"),
        ("audio", {"width": 10**6}, r"and dataset.json says .*\[1000000\]"),
        ("audio", {"width": 10**12}, "modalities.audio.width"),
        ("audio", {"dtype": "float16"}, "dataset.json says .*halffloat"),
        ("audio", {"kind": "image", "width": None, "dtype": None}, "has no column 'image'"),
        ("note", {"kind": "image"}, "has no column 'image'"),
        ("note", {"kind": "vector", "width": 4, "dtype": "float32"}, "has no column 'vector'"),
    ],
)
def test_rows_of_another_kind_or_width_than_the_index_says_are_an_error(
    tmp_path: Path, modality: str, said: dict[str, Any], words: str
) -> None:
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    (tmp_path / "notes.txt").write_text("one note\nanother note\n")
    data = tmp_path / "data"
    ingest(tmp_path / "x.npy", data, IngestOptions(modality="audio", kind="vector"))
    ingest(tmp_path / "notes.txt", data, IngestOptions(modality="note", kind="text"))
    assert verify(data).rows == 5

    def change(index: dict[str, Any]) -> None:
        told = index["modalities"][modality] | said
        index["modalities"][modality] = {key: value for key, value in told.items() if value is not None}

    tiny.edit_document(data / INDEX_NAME, change)
    if said.get("width") == 10**12:  # more than Arrow can say
        with pytest.raises(SetClipError, match=words):
            open_dataset(data)
        return
    dataset = open_dataset(data)
    with pytest.raises(SetClipError, match=words):
        dataset.table(modality, None, ["id"])
    with pytest.raises(SetClipError, match=words):
        dataset.columns(dataset.shards(modality)[0])
    with pytest.raises(SetClipError, match=words):
        verify(data)
