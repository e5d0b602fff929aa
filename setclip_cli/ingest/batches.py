"""Batches of a source's records: decided one by one, written as whole shards."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli.console import visible
from setclip_cli.dataset.dataset import OPTIONAL_COLUMNS, REJECTS_SCHEMA, Shard, schema_of, write_shard
from setclip_cli.dataset.modality import Modality
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.ingest.result import count_rows
from setclip_cli.ingest.sources.base import Record, Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from setclip_cli.dataset.dataset import ModalityInfo
    from setclip_cli.ingest.dedup import Kept

MAX_SPLITS = 16
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_BATCH_REJECTS = 100_000
ShardNames = dict[tuple[Modality, str], str]  # (modality, split) -> the shard's path


class RowBatch:
    """The rows and rejects that are written next.

    Attributes:
        columns: (modality, split) -> the values of each column; the last holds the values of optional columns.
        rejects: Lines of rejects.parquet.
        left_out: What is only counted, by reason.
    """

    def __init__(self) -> None:
        self.columns: dict[tuple[Modality, str], list[list[Any]]] = {}
        self.rejects: list[Reject] = []
        self.left_out: Counter[str] = Counter()
        self.repairs: Counter[str] = Counter()
        self.count = self.distinct = self.crossing = self.payload_bytes = 0

    def add(self, kept: Kept, source: str) -> None:
        record = kept.record
        row = (
            record.id,
            kept.split,
            source,
            record.sha256,
            record.label,
            record.payload,
            *record.columns,
            record.extra,
        )
        columns = self.columns.get((record.modality, kept.split))
        if columns is None:
            columns = self.columns[record.modality, kept.split] = [[] for _ in row]
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        self.count += 1
        self.distinct += kept.distinct
        self.crossing += kept.crossing
        self.payload_bytes += len(record.payload)
        if record.repairs:
            self.repairs.update(record.repairs)

    def reject(self, reject: Reject) -> None:
        if reject.listed:
            self.rejects.append(reject)
        else:
            self.left_out[reject.kind] += 1


def cut_batches(
    found: Iterable[Record | Reject],
    decide: Callable[[Record], Kept | Reject],
    source: Path,
    *,
    start: int,
    splits: Iterable[str],
    max_rows: int,
    max_bytes: int,
) -> Iterator[tuple[RowBatch, int, bool]]:
    """Yields (batch, records of the source up to its end, whether it is the last); rejects count as records.

    Args:
        found: What the source yields, from record ``start`` on.
        decide: Whether a record is kept.
        source: For messages and for the ``source`` column.
        start: Number of records before the first of ``found``.
        splits: The splits that the DATASET has.
        max_rows: A batch ends with this many rows,
        max_bytes: or with this many bytes of payload.

    Raises:
        SetClipError: more than ``MAX_SPLITS`` splits, so that each shard would hold very few rows.
    """
    batch, records, name = RowBatch(), start, source.name
    known = set(splits)
    for record in found:
        records += 1
        decision = record if record.__class__ is Reject else decide(record)  # type: ignore[arg-type]
        if isinstance(decision, Reject):
            batch.reject(decision)
        else:
            batch.add(decision, name)
            if decision.split not in known:
                known.add(decision.split)
                _check_splits(source, known)
        if batch.count >= max_rows or batch.payload_bytes >= max_bytes or len(batch.rejects) >= MAX_BATCH_REJECTS:
            yield batch, records, False
            batch = RowBatch()
    yield batch, records, True


def _check_splits(source: Path, known: set[str]) -> None:
    if len(known) > MAX_SPLITS:
        some = ", ".join(sorted(known)[:4])
        raise SetClipError(
            f"{source}: its records have more than {MAX_SPLITS} splits: {some}, ...",
            fix=f"{argument('split')} train for all rows, or {argument('split')} train=0.8,test=0.2 to draw them",
        )


def write_batch(
    batch: RowBatch, names: ShardNames, source: str, out: Path, rejects: Path, about: Mapping[Modality, ModalityInfo]
) -> tuple[list[Shard], dict[str, Any]]:
    """Writes the shards of a batch below ``out``, and its rejects, if any, to the file ``rejects``.

    Args:
        about: What the DATASET says about the modalities of the rows.

    Returns:
        The shards, and the counts of the batch, which ``result.add_counts`` adds up.
    """
    shards = []
    counts: dict[str, Any] = {
        "read": batch.count + len(batch.rejects) + batch.left_out.total(),
        "left_out": dict(batch.left_out),
        "rejects": dict(Counter(reject.kind for reject in batch.rejects)),
        "bad": sum(reject.bad for reject in batch.rejects),
        "repairs": dict(batch.repairs),
        "distinct": batch.distinct,
        "crossing": batch.crossing,
        "rows": {},
    }
    for (modality, split), relative in names.items():
        table = _table(batch.columns[modality, split], schema_of(about[modality].kind, about[modality]))
        shards.append(write_shard(out, relative, table, modality=modality, split=split))
        counts["rows"].setdefault(modality, {})[split] = count_rows(table)
    if batch.rejects:
        write_table(rejects, rejects_table(source, batch.rejects))
    return shards, counts


def _table(columns: list[list[Any]], schema: pa.Schema) -> pa.Table:
    """A table with the schema, and with the optional columns that any of the rows has."""
    *columns, extras = columns
    arrays = [pa.array(column, part.type) for column, part in zip(columns, schema, strict=True)]
    if any(extras):
        present = {name for extra in extras if extra is not None for name in extra}
        for name, kind in OPTIONAL_COLUMNS.items():
            if name in present:
                schema = schema.append(pa.field(name, kind))
                arrays.append(pa.array([extra.get(name) if extra else None for extra in extras], kind))
    return pa.Table.from_arrays(arrays, schema=schema)


def rejects_table(source: str, rejects: list[Reject]) -> pa.Table:
    return pa.table(
        {
            "source": [source] * len(rejects),
            "location": [_printable(reject.location) for reject in rejects],
            "reason": [_printable(reject.reason) for reject in rejects],
        },
        schema=REJECTS_SCHEMA,
    )


def write_table(path: Path, table: pa.Table) -> None:
    with atomic.atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _printable(text: str) -> str:
    """A name as UTF-8 can hold it: a byte of a name in an unknown encoding becomes ``\\xe9``."""
    return text if text.isascii() else _SURROGATE.sub(lambda found: visible(found[0]), text)
