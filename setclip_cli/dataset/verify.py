"""Checks a DATASET against its own index: every file's hash, every row's payload."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli import console
from setclip_cli.console import visible
from setclip_cli.dataset.dataset import WORK_NAME, Dataset, Shard, open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class VerifyResult:
    """What was checked and found whole."""

    out: Path
    shards: int
    rows: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        return {"out": str(self.out), "shards": self.shards, "rows": self.rows, "bytes": self.bytes, "whole": True}

    def summary(self) -> str:
        counts = f"{self.shards:,} shards, {self.rows:,} rows, {self.bytes / 1e6:,.1f} MB"
        return f"{visible(self.out)}: whole; {counts}; all hashes match"


def verify(root: str | Path) -> VerifyResult:
    """Checks the hash of every shard, of every row's payload, and of pairs.parquet and rejects.parquet.

    Raises:
        SetClipError: something is missing or differs; the message lists the first five faults.
    """
    dataset = open_dataset(root)
    root, faults = dataset.root, faults_of(dataset)
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise SetClipError(
            f"{root}: {len(faults)} faults: {'; '.join(faults[:5])}{more}",
            fix="run the `setclip ingest` commands again with a new folder; dataset.json lists the sources",
        )
    shards = dataset.index.shards
    return VerifyResult(root, len(shards), sum(s.rows for s in shards), sum(s.bytes for s in shards))


def faults_of(dataset: Dataset) -> list[str]:
    """What is missing or differs, each with its place; empty if the DATASET is whole."""
    faults: list[str] = []
    for shard in console.progress(dataset.index.shards, label="verify", unit="shards"):
        faults += _faults(dataset, shard)
    for name, digest in dataset.index.files.items():
        places = [path for path in (dataset.root / name, dataset.root / WORK_NAME / name) if path.is_file()]
        if not places:
            faults.append(f"{name}: missing")
        elif all(atomic.sha256_file(path) != digest for path in places):
            faults.append(f"{name}: its sha256 differs")
    return faults


def _faults(dataset: Dataset, shard: Shard) -> Iterator[str]:
    path, payload = dataset.root / shard.path, dataset.payload_column(shard.modality)
    if not path.is_file():
        yield f"{shard.path}: missing"
        return
    if path.stat().st_size != shard.bytes:
        yield f"{shard.path}: {path.stat().st_size:,} bytes, not {shard.bytes:,}"
        return
    if atomic.sha256_file(path) != shard.sha256:
        yield f"{shard.path}: its sha256 differs"
        return
    rows = 0
    try:
        with pq.ParquetFile(path) as file:
            if other := dataset.other_rows(shard, file.schema_arrow):
                yield f"{shard.path}: {other}"
                return
            for batch in file.iter_batches(_BATCH_ROWS, columns=["id", "sha256", payload]):
                rows += batch.num_rows
                ids, digests = (batch.column(place).to_pylist() for place in (0, 1))
                for identifier, digest, content in zip(ids, digests, _payloads(batch.column(2)), strict=True):
                    if hashlib.sha256(content).hexdigest() != digest:
                        yield f"{shard.path}: row {identifier}: its payload does not have its sha256"
    except (pa.ArrowException, OSError) as error:
        yield f"{shard.path}: is not a readable Parquet file ({error})"
        return
    if rows != shard.rows:
        yield f"{shard.path}: {rows:,} rows, not {shard.rows:,}"


def _payloads(column: pa.Array) -> Iterator[bytes | memoryview]:
    """The bytes that each row's hash is of; those of a vector are its values, little-endian, and of
    a video its frames, one after the other."""
    if pa.types.is_fixed_size_list(column.type):
        values = column.flatten().to_numpy().reshape(len(column), -1)
        yield from (memoryview(row).cast("B") for row in values)
    elif pa.types.is_list(column.type):
        yield from (b"".join(frames) for frames in column.to_pylist())
    else:
        yield from (each if isinstance(each, bytes) else each.encode() for each in column.to_pylist())
