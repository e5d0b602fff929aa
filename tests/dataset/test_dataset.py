"""A DATASET as a notebook opens it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from setclip_cli.dataset.dataset import (
    INDEX_NAME,
    OPTIONAL_COLUMNS,
    SCHEMAS,
    Dataset,
    DatasetIndex,
    open_dataset,
    write_shard,
)
from setclip_cli.errors import SetClipError


def caption_shard(root: Path, split: str, ids: list[str]) -> None:
    rows = [
        {"id": name, "split": split, "source": "c", "sha256": "0", "label": None, "text": name, "group": None}
        for name in ids
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMAS["caption"])
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
