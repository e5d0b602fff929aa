"""Batches of a source's records: decided one by one, or in blocks of vectors; written as whole shards."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli.console import visible
from setclip_cli.dataset.dataset import Shard, write_shard
from setclip_cli.dataset.modality import Modality
from setclip_cli.dataset.schemas import REJECTS_SCHEMA, optional_columns, schema_of
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.ingest.dedup import Kept
from setclip_cli.ingest.result import count_rows
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.vectors.rows import Rows
from setclip_cli.ingest.vector_columns import VectorColumns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from setclip_cli.dataset.schemas import ModalityInfo
    from setclip_cli.ingest.vector_rows import Decided, KeptRows

MAX_SPLITS = 16
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_BATCH_REJECTS = 100_000
ShardNames = dict[tuple[Modality, str], str]  # (modality, split) -> the shard's path


class VectorRules(NamedTuple):
    """What is decided about blocks of vectors, and how a shard holds them."""

    decide: Callable[[Rows], Iterator[Decided]]
    schema: pa.Schema

    @property
    def row_bytes(self) -> int:
        kind = self.schema.field("vector").type
        return int(kind.list_size * kind.value_type.bit_width // 8)


class DecisionLog(Protocol):
    """Takes what is decided about each answer of a source, in their order, and the tables of the shards."""

    def note(self, one: Record | Reject, decision: Kept | Reject) -> None: ...

    def note_rows(self, rows: Rows, decided_rows: Iterable[Decided]) -> list[Decided]:
        """Takes a block of vectors; returns what was decided."""
        ...

    def take_table(self, split: str, table: pa.Table) -> None: ...


class RowBatch:
    """The rows and rejects that are written next.

    Args:
        new_vectors: Makes the columns of a shard, if the rows are vectors.

    Attributes:
        columns: (modality, split) -> the values of each column; the last holds the values of optional columns.
        vectors: The same of rows that are vectors.
        tables: The rows, if they are the rows of other shards.
        rejects: Lines of rejects.parquet.
        left_out: What is only counted, by reason.
    """

    def __init__(self, new_vectors: Callable[[], VectorColumns] | None = None) -> None:
        self.columns: dict[tuple[Modality, str], list[list[Any]]] = {}
        self.vectors: dict[tuple[Modality, str], VectorColumns] = {}
        self.tables: dict[tuple[Modality, str], pa.Table] = {}
        self._new_vectors = new_vectors
        self.rejects: list[Reject] = []
        self.left_out: Counter[str] = Counter()
        self.repairs: Counter[str] = Counter()
        self.count = self.distinct = self.crossing = self.payload_bytes = 0

    def add(self, kept: Kept, source: str) -> None:
        record = kept.record
        if self._new_vectors is not None:
            self._vectors(record.modality, kept.split).add(kept)
        else:
            self._add(record, kept.split, source)
        self.count += 1
        self.distinct += kept.distinct
        self.crossing += kept.crossing
        self.payload_bytes += (
            sum(map(len, record.payload)) if isinstance(record.payload, tuple) else len(record.payload)
        )
        if record.repairs:
            self.repairs.update(record.repairs)

    def _add(self, record: Record, split: str, source: str) -> None:
        row = (record.id, split, source, record.sha256, record.label, record.payload, *record.columns, record.extra)
        columns = self.columns.get((record.modality, split))
        if columns is None:
            columns = self.columns[record.modality, split] = [[] for _ in row]
        for column, value in zip(columns, row, strict=True):
            column.append(value)

    def add_rows(self, kept: KeptRows) -> None:
        """Adds vectors that are kept and are the first ones with their contents."""
        splits = dict.fromkeys(kept.splits)
        for split in splits:
            places = None if len(splits) == 1 else [row for row, each in enumerate(kept.splits) if each == split]
            self._vectors(kept.rows.modality, split).add_rows(kept, places)
        self.count += len(kept.rows)
        self.distinct += len(kept.rows)
        self.payload_bytes += kept.rows.values.nbytes
        self.repairs.update(what for each in kept.repairs or () for what in each)

    def take(self, decided: Decided, source: str) -> None:
        """Adds what was decided about one or several vectors."""
        if isinstance(decided, Reject):
            self.reject(decided)
        elif isinstance(decided, Kept):
            self.add(decided, source)
        else:
            self.add_rows(decided)

    def _vectors(self, modality: Modality, split: str) -> VectorColumns:
        columns = self.vectors.get((modality, split))
        if columns is None:
            assert self._new_vectors is not None
            columns = self.vectors[modality, split] = self._new_vectors()
        return columns

    @property
    def splits(self) -> set[str]:
        return {split for _, split in self.parts()}

    def parts(self) -> list[tuple[Modality, str]]:
        """The modality and split of each shard."""
        return sorted([*self.columns, *self.vectors, *self.tables])

    def reject(self, reject: Reject) -> None:
        if reject.listed:
            self.rejects.append(reject)
        else:
            self.left_out[reject.kind] += 1


def cut_batches(
    found: Iterable[Record | Reject | Rows],
    decide: Callable[[Record], Kept | Reject],
    source: Path,
    *,
    start: int,
    splits: Iterable[str],
    max_rows: int,
    max_bytes: int,
    vectors: VectorRules | None = None,
    log: DecisionLog | None = None,
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
        vectors: What rows of vectors need.
        log: Takes what is decided about each answer.

    Raises:
        SetClipError: more than ``MAX_SPLITS`` splits, so that each shard would hold very few rows.
    """
    new_columns = None
    if vectors is not None:
        most = min(max_rows, -(-max_bytes // vectors.row_bytes))
        new_columns = partial(VectorColumns, vectors.schema, most, spare=[])
    batch, records, name = RowBatch(new_columns), start, source.name
    known = set(splits)

    def is_full() -> bool:
        full = batch.count >= max_rows or batch.payload_bytes >= max_bytes
        return full or len(batch.rejects) >= MAX_BATCH_REJECTS

    for one in found:
        if isinstance(one, Rows):
            assert vectors is not None
            place = 0
            while place < len(one):
                # Not more than what fits for sure: so a batch ends at the same row wherever the blocks begin.
                room = min(
                    max_rows - batch.count,
                    -(-(max_bytes - batch.payload_bytes) // vectors.row_bytes),
                    MAX_BATCH_REJECTS - len(batch.rejects),
                )
                part = one.cut(place, min(place + room, len(one)))
                place, records = place + len(part), records + len(part)
                decisions: Iterable[Decided] = vectors.decide(part)
                if log is not None:
                    decisions = log.note_rows(part, decisions)
                for each in decisions:
                    batch.take(each, name)
                if not batch.splits <= known:
                    known |= batch.splits
                    _check_splits(source, known)
                if is_full():
                    yield batch, records, False
                    batch = RowBatch(new_columns)
            continue
        records += 1
        decision = one if one.__class__ is Reject else decide(one)  # type: ignore[arg-type]
        if log is not None:
            log.note(one, decision)
        if isinstance(decision, Reject):
            batch.reject(decision)
        else:
            batch.add(decision, name)
            if decision.split not in known:
                known.add(decision.split)
                _check_splits(source, known)
        if is_full():
            yield batch, records, False
            batch = RowBatch(new_columns)
    yield batch, records, True


def _check_splits(source: Path, known: set[str]) -> None:
    if len(known) > MAX_SPLITS:
        some = ", ".join(sorted(known)[:4])
        raise SetClipError(
            f"{source}: its records have more than {MAX_SPLITS} splits: {some}, ...",
            fix=f"{argument('split')} train for all rows, or {argument('split')} train=0.8,test=0.2 to draw them",
        )


def write_batch(
    batch: RowBatch,
    names: ShardNames,
    source: str,
    out: Path,
    rejects: Path,
    about: Mapping[Modality, ModalityInfo],
    *,
    log: DecisionLog | None = None,
) -> tuple[list[Shard], dict[str, Any]]:
    """Writes the shards of a batch below ``out``, and its rejects, if any, to the file ``rejects``.

    Args:
        about: What the DATASET says about the modalities of the rows.
        log: Takes the rows that are not vectors.

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
        vectors = batch.vectors.pop((modality, split), None)
        if vectors is not None:
            table = vectors.table(split, source)
        elif (modality, split) in batch.tables:
            table = batch.tables.pop((modality, split))
        else:
            table = table_of(batch.columns[modality, split], schema_of(about[modality].kind, about[modality]))
        if log is not None and vectors is None:
            log.take_table(split, table)
        shards.append(write_shard(out, relative, table, modality=modality, split=split, remember=log is None))
        counts["rows"].setdefault(modality, {})[split] = count_rows(table)
        if vectors is not None:
            del table
            vectors.release()
    if batch.rejects:
        write_table(rejects, rejects_table(source, batch.rejects))
    return shards, counts


def table_of(columns: list[list[Any]], schema: pa.Schema) -> pa.Table:
    """A table with the schema, and with the optional columns that any of the rows has."""
    *columns, extras = columns
    arrays = [pa.array(column, part.type) for column, part in zip(columns, schema, strict=True)]
    if any(extras):
        filled = (extra.items() for extra in extras if extra is not None)
        for column in optional_columns({name for items in filled for name, value in items if value is not None}):
            schema = schema.append(column)
            arrays.append(pa.array([extra.get(column.name) if extra else None for extra in extras], column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def rejects_table(source: str, rejects: list[Reject]) -> pa.Table:
    return pa.table(
        {
            "source": [source] * len(rejects),
            "location": [printable(reject.location) for reject in rejects],
            "reason": [printable(reject.reason) for reject in rejects],
        },
        schema=REJECTS_SCHEMA,
    )


def write_table(path: Path, table: pa.Table, *, sync: bool = True) -> None:
    with atomic.atomic_path(path, sync=sync) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def printable(text: str) -> str:
    """A name as UTF-8 can hold it: a byte of a name in an unknown encoding becomes ``\\xe9``."""
    return text if text.isascii() else _SURROGATE.sub(lambda found: visible(found[0]), text)
