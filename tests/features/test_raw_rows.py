"""Claims about raw rows by number: those of this DATASET, whatever the cache holds of others."""

from __future__ import annotations

from pathlib import Path

import tiny

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.features.raw_rows import open_raw_rows


def test_rows_are_those_of_all_shards_and_never_of_another_dataset(tmp_path: Path) -> None:
    sequences = tiny.proteins(10)  # 3 shards
    for name, rows in (("one", sequences), ("other", [*sequences[:9], "MKV"])):  # the last shard alone differs
        dataset = open_dataset(tiny.write_dataset(tmp_path / name, {"protein": rows}))
        for _ in range(2):  # copied, then read from the cache
            raw_rows = open_raw_rows(dataset, "protein", "train", "sequence", cache_dir=tmp_path / "cache")
            assert len(raw_rows) == 10
            assert raw_rows.take([9, 0, 4]) == [rows[9], rows[0], rows[4]]
            assert raw_rows.lengths() == [len(row) for row in rows]
