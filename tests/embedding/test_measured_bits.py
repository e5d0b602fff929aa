"""The rows by which ubinary measures its centre and spread come from shards that the bytes alone choose."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from setclip_cli.embedding import calibration
from setclip_cli.embedding.calibration import measured_bits
from setclip_cli.embedding.embeddings import StoredBitCode


@dataclass(frozen=True)
class _Shard:
    path: str
    sha256: str
    seed: int


def _measured(names: list[str], monkeypatch: pytest.MonkeyPatch, most: int = 4) -> tuple[StoredBitCode, set[str]]:
    """The code of ten shards of different contents under these names, and which of them were read."""
    monkeypatch.setattr(calibration, "SAMPLE_SHARDS", most)
    shards = [_Shard(name, sha256(b"%d" % seed).hexdigest(), seed) for seed, name in enumerate(names)]
    read: set[str] = set()

    def table(shard: _Shard, columns: list[str]) -> pa.Table:
        read.add(shard.path)
        rows = np.random.default_rng(shard.seed).normal(shard.seed, 1.0, (50, 8)).astype(np.float32)
        return pa.table({columns[0]: pa.array(list(rows), pa.list_(pa.float32()))})

    def embedded(items: Any) -> tuple[Any, Any]:
        return np.array(items, np.float32), SimpleNamespace(failed={})

    dataset: Any = SimpleNamespace(shards=lambda _modality: shards, read=table)
    tower: Any = SimpleNamespace(
        backbone=SimpleNamespace(column="vector"),
        settings=SimpleNamespace(dim=8),
        items=lambda column: column.to_pylist(),
        embed=embedded,
    )
    return measured_bits(dataset, "audio", tower), read


def test_the_names_of_shards_do_not_change_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"audio/train-{number:05}.parquet" for number in range(10)]
    assert _measured(names, monkeypatch)[0] == _measured(names[::-1], monkeypatch)[0]


def test_the_rows_are_not_all_of_the_split_whose_name_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"audio/{split}-{number:05}.parquet" for split in ("test", "train") for number in range(5)]
    _, read = _measured(names, monkeypatch)
    assert len(read) == 4
    assert {name.partition("-")[0] for name in read} == {"audio/test", "audio/train"}
