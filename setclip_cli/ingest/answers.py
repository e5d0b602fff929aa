"""What a worker writes down about each answer of a source, so that the ingest can decide again without the source.

DATASET/.ingest/ahead/<key>/answers.arrow      ANSWERS, in the order of the source
DATASET/.ingest/ahead/<key>/left-out.parquet   the rows that the worker left out, as far as there is room for them
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from setclip_cli.dataset.schemas import schema_of
from setclip_cli.files import atomic
from setclip_cli.files.write_errors import writing
from setclip_cli.ingest.batches import RowBatch, printable, table_of, write_table
from setclip_cli.ingest.dedup import Kept, in_own_group
from setclip_cli.ingest.sources.base import ORIGINAL, Record, Reject
from setclip_cli.ingest.vector_rows import KeptRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from setclip_cli.dataset.schemas import ModalityInfo
    from setclip_cli.ingest.dedup import KeepRules
    from setclip_cli.ingest.source_batches import Limits
    from setclip_cli.ingest.sources.vectors.rows import Rows
    from setclip_cli.ingest.vector_rows import Decided

ANSWERS_NAME = "answers.arrow"
LEFT_OUT_NAME = "left-out.parquet"
DIGEST_BYTES = 16  # of sha256, which tell a content from others
NO_RECORD, LEFT_OUT = -2, -1  # in place of the number of a shard
_NO_RECORD = Record("", "", b"", "00" * 32)

ANSWERS = pa.schema(
    [
        # What the source gives, as `Record` names it.
        pa.field("given_id", pa.string()),  # null if it is the id
        pa.field("digest", pa.binary(DIGEST_BYTES), nullable=False),
        pa.field("original", pa.string()),
        pa.field("size", pa.int64(), nullable=False),  # of the payload, as batches count it
        pa.field("label", pa.string()),
        pa.field("given_split", pa.string()),
        pa.field("group", pa.string()),
        pa.field("made_up", pa.bool_(), nullable=False),
        pa.field("made_up_group", pa.bool_(), nullable=False),
        pa.field("given_repairs", pa.list_(pa.string())),
        # What the worker decided, as `Kept` and `Reject` name it.
        pa.field("shard", pa.int32(), nullable=False),  # its number among those of the source; NO_RECORD, LEFT_OUT
        pa.field("row", pa.int64(), nullable=False),  # there, or in the table of rows left out; -1 if it is not there
        pa.field("id", pa.string(), nullable=False),  # that of a record that is kept, or would be
        pa.field("alone", pa.bool_(), nullable=False),
        pa.field("distinct", pa.bool_(), nullable=False),
        pa.field("crossing", pa.bool_(), nullable=False),
        pa.field("grouped", pa.binary(16)),
        pa.field("repairs", pa.list_(pa.string())),
        pa.field("location", pa.string()),  # of a reject, as the next three
        pa.field("reason", pa.string()),
        pa.field("bad", pa.bool_(), nullable=False),
        pa.field("listed", pa.bool_(), nullable=False),
    ]
)


class AnswerLog:
    """Takes the answers of a source and the decisions about them in a worker, and writes them batch by batch.

    What the rows of a shard hold is taken from its table. Beside that, a row is noted by the number of its shard alone,
    unless there is something odd about it.

    Args:
        writer: Of ANSWERS.
        rules: Those of the source.
        limits: The rows that are left out are kept up to these limits, so that they cannot fill the memory or the disk.
    """

    def __init__(self, writer: pa.RecordBatchFileWriter, rules: KeepRules, limits: Limits) -> None:
        self._writer, self._rules, self._limits = writer, rules, limits
        self._shard_of: list[int] = []  # of each answer of the batch
        self._odd: dict[int, tuple[Record | Reject, Kept | Reject]] = {}  # by the number of the answer in the batch
        self._grouped: dict[int, bytes] = {}
        self._sizes: dict[int, int] = {}  # of the payloads that are left out
        self._made_up: bool | None = None  # of the ids of all rows that are not odd
        self._numbers = _Numbers()
        self._tables: dict[int, pa.Table] = {}
        self._rows: Counter[int] = Counter()  # number of a shard -> its rows so far
        self._has_room = True
        self.left_out = RowBatch()

    def note(self, one: Record | Reject, decision: Kept | Reject) -> None:
        """Takes one answer."""
        if decision.__class__ is Kept:
            if decision.grouped is not None:
                self._grouped[len(self._shard_of)] = decision.grouped
            self._shard_of.append(self._numbers[decision.split])
            if (
                decision.alone
                and decision.record is one
                and one.split is None
                and one.made_up is self._made_up
                and not one.made_up_group
                and one.extra is None
                and not one.repairs
            ):
                return
        elif isinstance(one, Record):
            self._shard_of.append(LEFT_OUT)
            one = self._leave_out(one)
        else:
            self._shard_of.append(NO_RECORD)
        if self._made_up is None and isinstance(one, Record):
            self._made_up = one.made_up
        self._odd[len(self._shard_of) - 1] = one, decision

    def _leave_out(self, record: Record) -> Record:
        """Keeps a row that was left out, because it may be taken when other rows come before it.

        Returns:
            The record without its payload.
        """
        size, rows, most = _size(record), self.left_out, self._limits
        self._sizes[len(self._shard_of) - 1] = size
        if self._has_room and rows.count < most.shard_rows and rows.payload_bytes + size <= most.shard_bytes:
            rows.add(Kept(in_own_group(record, self._rules), "", distinct=False, crossing=False), "")
        else:
            self._has_room = False
        return record._replace(payload=b"")

    def take_table(self, split: str, table: pa.Table) -> None:
        """Takes the table of a shard of the batch."""
        self._tables[self._numbers[split]] = table

    def end_batch(self) -> list[str]:
        """Ends a batch; returns the splits of its shards in the order of their numbers."""
        if self._shard_of:
            self._write_noted(np.array(self._shard_of, np.int32))
        splits = list(self._numbers)
        self._numbers = _Numbers(self._numbers.first + len(splits))
        for kept in (self._shard_of, self._odd, self._grouped, self._sizes, self._tables):
            kept.clear()
        return splits

    def _write_noted(self, shard: Any) -> None:
        """Writes the answers of a batch."""
        count, out = len(shard), np.flatnonzero(shard < 0)
        tables = [self._tables[number] for number in sorted(self._tables)]
        places = [*(np.flatnonzero(shard == number) for number in sorted(self._tables)), out]
        back = np.empty(count, np.int64)
        back[np.concatenate(places)] = np.arange(count)
        records = [
            one if isinstance(one, Record) else _NO_RECORD for one in (self._odd[each][0] for each in out.tolist())
        ]

        def joined(of_tables: Iterable[pa.Array], of_out: Sequence[Any], kind: pa.DataType) -> pa.Array:
            parts = [*of_tables, pa.array(of_out, kind)]
            return pa.concat_arrays(parts).take(pa.array(back)) if len(out) or len(tables) > 1 else parts[0]

        grouped = "group" in tables[0].column_names if tables else False
        columns: dict[str, Any] = {
            "digest": joined(
                (_digests(table["sha256"]) for table in tables),
                [bytes.fromhex(record.sha256[: 2 * DIGEST_BYTES]) for record in records],
                pa.binary(DIGEST_BYTES),
            ),
            "size": joined(
                (_sizes(table.column(5)) for table in tables),
                [self._sizes.get(place, 0) for place in out.tolist()],
                pa.int64(),
            ),
            # the id of a record in its own group is longer
            "id": joined(
                (_one(table["id"]) for table in tables),
                [in_own_group(record, self._rules).id for record in records],
                pa.string(),
            ),
            "label": joined((_one(table["label"]) for table in tables), [each.label for each in records], pa.string()),
            "group": joined((_one(each["group"]) for each in tables), [each.group for each in records], pa.string())
            if grouped
            else None,
            "grouped": [self._grouped.get(place) for place in range(count)] if self._grouped else None,
            "made_up": np.full(count, bool(self._made_up)),
            "alone": np.ones(count, bool),
            "distinct": np.ones(count, bool),
        }
        self._write(shard, columns, self._odd)

    def note_rows(self, rows: Rows, decided_rows: Iterable[Decided]) -> list[Decided]:
        """Writes a block of vectors; returns what was decided. A vector that is left out is not written here."""
        count, place, decisions = len(rows), 0, list(decided_rows)
        ids, splits = list(rows.ids), [""] * count
        distinct, alone = np.zeros(count, bool), np.zeros(count, bool)
        grouped: list[bytes | None] = [None] * count
        repairs: dict[int, tuple[str, ...]] = {}
        odd: dict[int, tuple[Record | Reject, Kept | Reject]] = {}
        for each in decisions:
            if isinstance(each, KeptRows):
                end = place + len(each.rows)
                ids[place:end], splits[place:end], grouped[place:end] = each.ids, each.splits, each.grouped
                distinct[place:end] = True
                alone[place:end] = list(map(str.__eq__, each.rows.ids, each.ids))
                repairs.update(enumerate(each.repairs or (), place))
                place = end
                continue
            if isinstance(each, Kept):
                splits[place] = each.split
                grouped[place] = each.grouped
            one = rows.one(place)
            odd[place] = one._replace(payload=b"") if isinstance(one, Record) else one, each
            place += 1
        shard = np.fromiter((self._numbers[split] if split else NO_RECORD for split in splits), np.int32, count)
        for row, (one, decision) in odd.items():
            if isinstance(decision, Reject):
                shard[row] = LEFT_OUT if isinstance(one, Record) else NO_RECORD
        digests = np.frombuffer(rows.digests, np.uint8).reshape(count, -1)[:, :DIGEST_BYTES].tobytes()
        columns: dict[str, Any] = {
            "given_id": rows.ids if list(rows.ids) != ids else None,
            "digest": _binary(digests),
            "size": np.full(count, rows.values.shape[1] * rows.values.itemsize),
            "id": ids,
            "label": rows.labels,
            "given_split": rows.splits,
            "group": rows.groups,
            "grouped": grouped,
            "made_up": np.full(count, rows.made_up),
            "alone": alone,
            "distinct": distinct,
            "repairs": [repairs.get(row) for row in range(count)] if repairs else None,
        }
        self._write(shard, columns, odd)
        return decisions

    def _write(
        self, shard: Any, columns: dict[str, Any], odd: dict[int, tuple[Record | Reject, Kept | Reject]]
    ) -> None:
        """Writes answers.

        Args:
            shard: (answers,) number of their shard.
            columns: What is not said here is null or false.
            odd: By place.
        """
        count = len(shard)
        columns["shard"], columns["row"] = shard, np.full(count, -1, np.int64)
        for number in np.unique(shard).tolist():
            if number != NO_RECORD:
                places = np.flatnonzero(shard == number)
                rows = np.arange(self._rows[number], self._rows[number] + len(places))
                self._rows[number] += len(places)
                if number == LEFT_OUT:
                    rows[rows >= self.left_out.count] = -1
                columns["row"][places] = rows
        changes: dict[str, dict[int, Any]] = {}
        for place, (one, decision) in odd.items():
            found: dict[str, Any] = {}
            if isinstance(one, Record):
                found |= {
                    "original": (one.extra or {}).get(ORIGINAL),
                    "given_split": one.split if one.split is None else printable(one.split),
                    "group": one.group,
                    "made_up": one.made_up,
                    "made_up_group": one.made_up_group,
                    "given_repairs": one.repairs or None,
                }
            if isinstance(decision, Kept):
                assert isinstance(one, Record)
                found |= {
                    "given_id": one.id if one.id != decision.record.id else None,
                    "id": decision.record.id,
                    "alone": decision.alone,
                    "distinct": decision.distinct,
                    "crossing": decision.crossing,
                    "repairs": decision.record.repairs or None,
                }
            else:
                if isinstance(one, Record) and (own := in_own_group(one, self._rules).id) != one.id:
                    found |= {"given_id": one.id, "id": own}
                found |= {
                    "alone": False,
                    "distinct": False,
                    "location": printable(decision.location),
                    "reason": printable(decision.reason),
                    "bad": decision.bad,
                    "listed": decision.listed,
                }
            for name, value in found.items():
                changes.setdefault(name, {})[place] = value
        arrays = [
            _changed(columns.get(field.name), changes.get(field.name, {}), field.type, count) for field in ANSWERS
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=ANSWERS))


class _Numbers(dict[str, int]):
    """Split -> number of its shard; a split that is met for the first time gets the next number.

    Args:
        first: Number of the first shard.
    """

    def __init__(self, first: int = 0) -> None:
        super().__init__()
        self.first = first

    def __missing__(self, split: str) -> int:
        self[split] = number = self.first + len(self)
        return number


def _changed(values: Any, changes: dict[int, Any], kind: pa.DataType, count: int) -> pa.Array:
    """An array with some of its values changed.

    Args:
        values: None: all are null, or false.
    """
    if values is None and pa.types.is_boolean(kind):
        values = np.zeros(count, bool)
    if changes and isinstance(values, np.ndarray):
        values[list(changes)] = list(changes.values())
    elif any(each is not None for each in changes.values()):
        values = [None] * count if values is None else values.to_pylist() if isinstance(values, pa.Array) else [*values]
        for place, value in changes.items():
            values[place] = value
    if values is None:
        return pa.nulls(count, kind)
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _one(column: pa.ChunkedArray) -> pa.Array:
    """The column of a table that was made of arrays."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _binary(digests: bytes) -> pa.Array:
    buffers = [None, pa.py_buffer(digests)]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), len(digests) // DIGEST_BYTES, buffers)


def _digests(sha256: pa.ChunkedArray) -> pa.Array:
    """The first bytes of hashes in hexadecimal digits."""
    column = _one(sha256)
    digits = column.buffers()[2][: 64 * len(column)].to_pybytes()
    whole = np.frombuffer(bytes.fromhex(digits.decode("ascii")), np.uint8).reshape(len(column), -1)
    return _binary(whole[:, :DIGEST_BYTES].tobytes())


def _sizes(payloads: pa.ChunkedArray) -> pa.Array:
    """The size of each payload, as `_size` has it."""
    column = _one(payloads)
    if pa.types.is_string(column.type):
        sizes = pc.utf8_length(column)
    elif pa.types.is_binary(column.type):
        sizes = pc.binary_length(column)
    else:
        ends = np.concatenate([[0], np.cumsum(pc.binary_length(column.flatten()).to_numpy())])
        sizes = pa.array(np.diff(ends[column.offsets.to_numpy()]))
    return sizes.cast(pa.int64())


def _size(record: Record) -> int:
    payload = record.payload
    return sum(map(len, payload)) if isinstance(payload, tuple) else len(payload)


@contextmanager
def writing_answers(folder: Path, rules: KeepRules, limits: Limits) -> Iterator[AnswerLog]:
    """Opens the log of a source's answers, to be written into a folder.

    It may be cut short or not be on disk after a kill or a power cut: whoever reads it then compares its hash.
    """
    path = atomic.make_folder(folder) / ANSWERS_NAME
    with writing(path), pa.ipc.new_file(str(path), ANSWERS) as writer:
        yield AnswerLog(writer, rules, limits)


def write_left_out(log: AnswerLog, folder: Path, about: ModalityInfo) -> bool:
    """Writes the rows that were left out; false if there are none."""
    for columns in log.left_out.columns.values():  # of one modality and one split
        write_table(folder / LEFT_OUT_NAME, table_of(columns, schema_of(about.kind, about)), sync=False)
    return bool(log.left_out.count)
