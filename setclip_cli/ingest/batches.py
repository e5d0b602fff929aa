"""Units of work: runs of a source's records, decided one by one and written as whole shards."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli.dataset.dataset import OPTIONAL_COLUMNS, REJECTS_SCHEMA, SCHEMAS, Shard, write_shard
from setclip_cli.dataset.modality import Modality
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.ingest.result import count_rows
from setclip_cli.ingest.sources.base import Record, Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from setclip_cli.ingest.dedup import Admitted

MAX_SPLITS = 16
MAX_UNIT_REJECTS = 100_000
Names = dict[tuple[Modality, str], str]  # (modality, split) -> the shard's path


class Unit:
    """Rows and rejects since the last unit ended.

    Attributes:
        columns: (modality, split) -> the values of each column; the last holds what goes into optional columns.
    """

    def __init__(self) -> None:
        self.columns: dict[tuple[Modality, str], list[list[Any]]] = {}
        self.rejects: list[Reject] = []
        self.repairs: Counter[str] = Counter()
        self.count = self.distinct = self.crossing = self.payload_bytes = 0

    def add(self, admitted: Admitted, source: str) -> None:
        record = admitted.record
        row = (
            record.id,
            admitted.split,
            source,
            record.sha256,
            record.label,
            record.payload,
            *record.columns,
            record.extra,
        )
        columns = self.columns.get((record.modality, admitted.split))
        if columns is None:
            columns = self.columns[record.modality, admitted.split] = [[] for _ in row]
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        self.count += 1
        self.distinct += admitted.fresh
        self.crossing += admitted.crossing
        self.payload_bytes += len(record.payload)
        if record.repairs:
            self.repairs.update(record.repairs)


def cut_units(
    found: Iterable[Record | Reject],
    decide: Callable[[Record], Admitted | Reject],
    source: Path,
    *,
    start: int,
    splits: Iterable[str],
    rows: int,
    payload_bytes: int,
) -> Iterator[tuple[Unit, int, bool]]:
    """Yields (unit, items of the source up to its end, whether it is the last).

    Args:
        found: What the source yields, from item ``start`` on.
        decide: Whether a record is kept.
        source: For messages and for the ``source`` column.
        start: Items before the first of ``found``.
        splits: Those that the DATASET has.
        rows: A unit ends with this many rows,
        payload_bytes: or with this many bytes of payload.

    Raises:
        SetClipError: more than ``MAX_SPLITS`` splits, so that each shard would hold next to nothing.
    """
    unit, items, name = Unit(), start, source.name
    known = set(splits)
    for item in found:
        items += 1
        decision = item if item.__class__ is Reject else decide(item)  # type: ignore[arg-type]
        if isinstance(decision, Reject):
            unit.rejects.append(decision)
        else:
            unit.add(decision, name)
            if decision.split not in known:
                known.add(decision.split)
                _check_splits(source, known)
        if unit.count >= rows or unit.payload_bytes >= payload_bytes or len(unit.rejects) >= MAX_UNIT_REJECTS:
            yield unit, items, False
            unit = Unit()
    yield unit, items, True


def _check_splits(source: Path, known: set[str]) -> None:
    if len(known) > MAX_SPLITS:
        some = ", ".join(sorted(known)[:4])
        raise SetClipError(
            f"{source}: states more than {MAX_SPLITS} splits: {some}, ...",
            fix="give one with --split train, or draw them with --split train=0.8,test=0.2",
        )


def write_unit(unit: Unit, names: Names, source: str, out: Path, part: Path) -> tuple[list[Shard], dict[str, Any]]:
    """Writes a unit's shards below ``out`` and its rejects, if any, to ``part``.

    Returns:
        The shards, and the unit's tally: what ``ingest_summary.merge_tallies`` adds up.
    """
    shards = []
    tally: dict[str, Any] = {
        "read": unit.count + len(unit.rejects),
        "rejects": dict(Counter(reject.kind for reject in unit.rejects)),
        "bad": sum(reject.bad for reject in unit.rejects),
        "repairs": dict(unit.repairs),
        "distinct": unit.distinct,
        "crossing": unit.crossing,
        "rows": {},
    }
    for (modality, split), relative in names.items():
        table = _table(unit.columns[modality, split], modality)
        shards.append(write_shard(out, relative, table, modality=modality, split=split))
        tally["rows"].setdefault(modality, {})[split] = count_rows(table)
    if unit.rejects:
        write_table(part, rejects_table(source, unit.rejects))
    return shards, tally


def _table(columns: list[list[Any]], modality: Modality) -> pa.Table:
    """A table of the modality's schema, and the optional columns that any of the rows has."""
    schema = SCHEMAS[modality]
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
    """A name out of a file as UTF-8 can hold it: half surrogates, from names in no encoding, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
