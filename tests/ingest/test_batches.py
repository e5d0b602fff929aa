"""A source's records are cut into batches of limited size and written as shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from setclip_cli.dataset.schemas import ModalityInfo
from setclip_cli.ingest import batches
from setclip_cli.ingest.batches import RowBatch, ShardNames, cut_batches, write_batch
from setclip_cli.ingest.dedup import Kept
from setclip_cli.ingest.sources.base import Record, Reject


def image(name: str, size: int = 10, **extra: object) -> Record:
    return Record("image", name, bytes(size), "0" * 64, columns=(1, 1), extra=extra or None)


def cut(
    found: list[Record | Reject], max_rows: int = 10**6, max_bytes: int = 10**6
) -> list[tuple[int, int, int, bool]]:
    """(rows, rejects, records up to the end, last) of each batch."""

    def keep(record: Record) -> Kept:
        return Kept(record, "train", True, False)

    cuts: Iterator[tuple[RowBatch, int, bool]] = cut_batches(
        iter(found), keep, Path("a"), start=100, splits=(), max_rows=max_rows, max_bytes=max_bytes
    )
    return [(batch.count, len(batch.rejects), records, last) for batch, records, last in cuts]


def test_a_batch_ends_with_its_rows_its_bytes_or_its_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_BATCH_REJECTS", 2)
    rows: list[Record | Reject] = [image(str(number)) for number in range(5)]
    assert cut(rows, max_rows=2) == [(2, 0, 102, False), (2, 0, 104, False), (1, 0, 105, True)]
    assert cut(rows, max_bytes=30) == [(3, 0, 103, False), (2, 0, 105, True)]
    assert cut([Reject("x", "bad"), *rows[:1], Reject("y", "bad")]) == [(1, 2, 103, False), (0, 0, 103, True)]


def test_rows_without_an_optional_value_have_null_there_and_only_bad_rejects_are_bad(tmp_path: Path) -> None:
    batch = RowBatch()
    for record in (image("a", crs="EPSG:4326"), image("b")):
        batch.add(Kept(record, "train", True, False), "in")
    batch.rejects += [Reject("x", "no image: 1"), Reject("y", "a repeat", bad=False)]
    names: ShardNames = {("image", "train"): "image/train-00000.parquet"}
    shards, counts = write_batch(
        batch, names, "in", tmp_path, tmp_path / "r.parquet", {"image": ModalityInfo(kind="image")}
    )
    table = pq.read_table(tmp_path / shards[0].path)
    assert table["crs"].to_pylist() == ["EPSG:4326", None]
    assert "transform" not in table.column_names
    assert (counts["read"], counts["bad"], counts["rejects"]) == (4, 1, {"no image": 1, "a repeat": 1})
