"""Decides again about a source that a worker has read, and cuts its shards into those that these decisions give.

A worker decides as if no rows were before its source. A record of which the worker says that it is alone, and which has
nothing in common with the rows before its source, is decided about in the same way after them. `Dedup.decide` is asked
about every other record, in the order of the source. The payloads come from the shards of the worker.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli.dataset.schemas import optional_columns, schema_of
from setclip_cli.ingest.answers import ANSWERS_NAME, LEFT_OUT, LEFT_OUT_NAME, NO_RECORD
from setclip_cli.ingest.batches import MAX_BATCH_REJECTS, RowBatch, printable
from setclip_cli.ingest.dedup import ID_IN_SOURCE, OTHER_CASE, Kept
from setclip_cli.ingest.known_vectors import RowKeys
from setclip_cli.ingest.sources.base import ORIGINAL, Record, Reject

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from setclip_cli.dataset.schemas import ModalityInfo
    from setclip_cli.ingest.dedup import Dedup, KeepRules
    from setclip_cli.ingest.source_batches import Limits

MAX_CHANGED = 1_000_000  # decisions that differ from those of the worker: they are in memory


class DecidedAgain:
    """A source that a worker has read, after the rows that `dedup` knows; `dedup` remembers its rows.

    Args:
        folder: Where the worker has written it.
        shards: The paths of its shards below the folder, by the numbers that the answers have.
        modality: That of its rows.
        rules: Those of the source.

    Attributes:
        changed: Number of an answer -> what is decided about it, if the worker decided otherwise.
    """

    def __init__(self, folder: Path, shards: Sequence[str], modality: str, dedup: Dedup, rules: KeepRules) -> None:
        self._folder, self._shards, self._modality = folder, list(shards), modality
        self._splits = [path.rpartition("/")[2].rpartition("-")[0] for path in shards]
        self._answers = pa.ipc.open_file(pa.memory_map(str(folder / ANSWERS_NAME)))
        self.changed: dict[int, Kept | Reject] = {}
        start = 0
        for number in range(self._answers.num_record_batches):
            block = _Block(self._answers.get_batch(number), self._splits, modality, rules)
            block.decide(dedup, as_before=not self.changed)
            self.changed.update((start + place, decision) for place, decision in block.changed.items())
            start += block.count
            if len(self.changed) > MAX_CHANGED:
                break

    def splits(self) -> set[str]:
        """The splits of the rows that are kept."""
        return {*self._splits, *(each.split for each in self.changed.values() if isinstance(each, Kept))}

    def has_rows(self) -> bool:
        """Whether the worker has written all rows that are kept. It may not have those that it left out itself."""
        if len(self.changed) > MAX_CHANGED:
            return False
        rows = self._column("row") if self.changed else ()
        return all(rows[place] >= 0 for place, each in self.changed.items() if isinstance(each, Kept))

    def _column(self, name: str) -> Any:
        parts = [self._answers.get_batch(number)[name] for number in range(self._answers.num_record_batches)]
        values = [part.to_numpy(zero_copy_only=False) for part in parts]
        return np.concatenate(values) if values else np.zeros(0, np.int64)

    def batches(self, source: str, about: ModalityInfo, limits: Limits) -> Iterator[tuple[RowBatch, int, bool]]:
        """Yields what `source_batches.batches_of` yields when the source is read after the rows before it.

        Args:
            source: What the column ``source`` says.
            about: What the DATASET says about the modality.
        """
        shard, row, size = self._column("shard"), self._column("row"), self._column("size")
        listed = self._column("listed")
        kept, names = shard >= 0, [*self._splits]
        split = shard.copy()
        for place, each in self.changed.items():
            kept[place] = isinstance(each, Kept)
            if isinstance(each, Kept):
                if each.split not in names:
                    names.append(each.split)
                split[place] = names.index(each.split)
            else:
                listed[place] = each.listed
        first_of_name = np.array([names.index(name) for name in names], np.int64)
        answers = pa.Table.from_batches(
            [self._answers.get_batch(number) for number in range(self._answers.num_record_batches)],
            schema=self._answers.schema,
        )
        tables = _Tables(self._folder, self._shards, shard[kept.nonzero()[0]], kept.nonzero()[0])
        changed = np.array(sorted(self.changed), np.int64)
        for start, end, last in _cuts(kept, np.where(kept, size, 0), listed & ~kept, limits):
            here = changed[np.searchsorted(changed, start) : np.searchsorted(changed, end)].tolist()
            new = {place: self.changed[place] for place in here}
            batch = _counted(answers.slice(start, end - start), kept[start:end], start, new)
            places = start + np.flatnonzero(kept[start:end])
            codes = first_of_name[split[places]]
            for code in np.unique(codes).tolist():
                rows = places[codes == code]
                table = tables.rows(shard[rows], row[rows])
                ids = {number: new[place] for number, place in enumerate(rows.tolist()) if place in new}
                batch.tables[self._modality, names[code]] = _as_shard(table, names[code], source, about, ids)
            tables.forget_before(end)
            yield batch, end, last


class _Block:
    """Consecutive answers.

    Attributes:
        changed: Place in the block -> what is decided there, if the worker decided otherwise.
    """

    def __init__(self, answers: pa.RecordBatch, splits: Sequence[str], modality: str, rules: KeepRules) -> None:
        self._answers, self._modality, self._rules = answers, modality, rules
        self.count = answers.num_rows
        self.changed: dict[int, Kept | Reject] = {}
        self._shard = answers["shard"].to_numpy()
        self._kept = self._shard >= 0
        self._alone = answers["alone"].to_numpy(zero_copy_only=False)
        self._numbers = [*splits, "", ""]  # LEFT_OUT and NO_RECORD are the last ones
        self._splits = [self._numbers[shard] for shard in self._shard.tolist()]
        digests = answers["digest"].to_numpy(zero_copy_only=False)
        payloads = digests.tolist()
        contents = payloads
        self._originals = _list(answers["original"])
        if self._originals is not None:
            contents = [
                payload if original is None else bytes.fromhex(original[:32])
                for payload, original in zip(payloads, self._originals, strict=True)
            ]
        self._keys = RowKeys(
            answers["id"].to_numpy(zero_copy_only=False).tolist(), payloads, contents, _list(answers["grouped"])
        )

    def decide(self, dedup: Dedup, *, as_before: bool) -> None:
        """Decides about all answers.

        Args:
            as_before: Whether nothing before this block was decided otherwise than the worker did.
        """
        known = dedup.known(self._modality, self._rules.kind)
        found = known.find(self._keys)
        reasons = self._answers["reason"]
        other_case = reasons.null_count < self.count and any(
            str(each).startswith(OTHER_CASE) for each in reasons.drop_null().unique().to_pylist()
        )
        clash = np.array([bool(split) and dedup.writes_otherwise(split) for split in self._numbers])[self._shard]
        if as_before and not found.any() and not clash.any() and not other_case:
            self._know(dedup, 0, self.count, self._kept & self._alone)
            for place in np.flatnonzero(self._kept & ~self._alone).tolist():
                keys, split = self._keys.part(place, place + 1), self._splits[place]
                dedup.know_split(split)
                known.ids.add(keys.ids[0])
                known.know(keys.payloads[0], None if self._originals is None else self._originals[place], split)
                if keys.grouped is not None and keys.grouped[0] is not None:
                    known.in_group.add(keys.grouped[0])
            return
        self._decide_in_turn(dedup, self._kept & self._alone & ~found & ~clash)

    def _decide_in_turn(self, dedup: Dedup, usual: Any) -> None:
        """Decides one by one about the records that are not usual, each after all that are before it."""
        waiting = np.flatnonzero(~usual & (self._shard != NO_RECORD)).tolist()  # in order, so it is a heap
        place_of: dict[str | bytes, int] = {}  # of usual records, by what tells them from others
        start = 0
        while waiting:
            place = heappop(waiting)
            self._know(dedup, start, place, usual)
            start = place + 1
            splits = dedup.splits
            decision = dedup.decide(self._record(place), self._rules)
            if not self._is_as_before(place, decision):
                self.changed[place] = decision
            if isinstance(decision, Reject):
                continue
            no_more_usual: set[int] = set()
            if not (self._kept[place] and decision.record.id == self._keys.ids[place]):  # the worker knew no such row
                if not place_of:
                    places = np.flatnonzero(usual).tolist()
                    for keys in (self._keys.ids, self._keys.contents, self._keys.payloads):
                        place_of.update((keys[each], each) for each in places)
                own = (decision.record.id, self._keys.contents[place], self._keys.payloads[place])
                no_more_usual.update(place_of[key] for key in own if key in place_of)
            if dedup.splits != splits:
                clash = [
                    number for number, split in enumerate(self._numbers) if split and dedup.writes_otherwise(split)
                ]
                no_more_usual.update(np.flatnonzero(np.isin(self._shard, clash)).tolist())
            for each in no_more_usual:
                if each > place and usual[each]:
                    usual[each] = False
                    heappush(waiting, each)
        self._know(dedup, start, self.count, usual)

    def _know(self, dedup: Dedup, start: int, end: int, usual: Any) -> None:
        """Remembers the usual records from ``start`` up to ``end``."""
        keys, splits, chosen = self._keys.part(start, end), self._splits[start:end], usual[start:end]
        if not chosen.all():
            keys, splits = keys.chosen(chosen), [split for split, each in zip(splits, chosen, strict=True) if each]
        for split in dict.fromkeys(splits):
            dedup.know_split(split)
        if splits:
            dedup.known(self._modality, self._rules.kind).know_new(keys, splits)

    def _record(self, place: int) -> Record:
        """A record without its payload: all that decides about it."""
        row = {name: self._answers[name][place].as_py() for name in _GIVEN}
        original = row["original"]
        return Record(
            self._modality,
            self._keys.ids[place] if row["given_id"] is None else row["given_id"],
            b"",
            row["digest"].hex(),
            label=row["label"],
            split=row["given_split"],
            group=row["group"],
            repairs=tuple(row["given_repairs"] or ()),
            extra=None if original is None else {ORIGINAL: original},
            made_up=row["made_up"],
            made_up_group=row["made_up_group"],
        )

    def _is_as_before(self, place: int, decision: Kept | Reject) -> bool:
        """Whether the worker has decided the same."""
        before = {name: self._answers[name][place].as_py() for name in _DECIDED}
        if isinstance(decision, Reject):
            found = {"location": printable(decision.location), "reason": printable(decision.reason)}
            return not self._kept[place] and all(before[name] == value for name, value in found.items())
        now = (decision.record.id, decision.distinct, decision.crossing, decision.record.repairs, decision.split)
        was = (
            before["id"],
            before["distinct"],
            before["crossing"],
            tuple(before["repairs"] or ()),
            self._splits[place],
        )
        return bool(self._kept[place]) and now == was


_GIVEN = (
    "given_id",
    "digest",
    "original",
    "label",
    "given_split",
    "group",
    "given_repairs",
    "made_up",
    "made_up_group",
)
_DECIDED = ("id", "distinct", "crossing", "repairs", "location", "reason")


def _list(column: pa.Array) -> list[Any] | None:
    """The values of a column; None if it has none."""
    return None if column.null_count == len(column) else column.to_pylist()


class _Tables:
    """The rows that a worker has written. A table is in memory from its first row that is asked for to its last one.

    Args:
        shard, places: Of all rows that are kept: their shard, and the number of their answer.
    """

    def __init__(self, folder: Path, shards: Sequence[str], shard: Any, places: Any) -> None:
        self._folder, self._shards = folder, shards
        self._last = {number: int(places[shard == number].max()) for number in np.unique(shard).tolist()}
        self._read: dict[int, pa.Table] = {}

    def rows(self, shard: Any, row: Any) -> pa.Table:
        """Rows in the order that is given, by the number of their shard and their number in it."""
        parts, places = [], []
        for number in np.unique(shard).tolist():
            if number not in self._read:
                name = LEFT_OUT_NAME if number == LEFT_OUT else self._shards[number]
                self._read[number] = pq.read_table(self._folder / name)
            chosen = np.flatnonzero(shard == number)
            parts.append(self._read[number].take(row[chosen]))
            places.append(chosen)
        if len(parts) == 1:
            return parts[0]
        return pa.concat_tables(parts, promote_options="default").take(np.argsort(np.concatenate(places)))

    def forget_before(self, place: int) -> None:
        """Forgets the tables that have no rows of answers from this one on."""
        self._read = {number: table for number, table in self._read.items() if self._last[number] >= place}


def _cuts(kept: Any, sizes: Any, listed: Any, limits: Limits) -> Iterator[tuple[int, int, bool]]:
    """Yields (start, end, whether it is the last) of each batch, as `cut_batches` cuts them.

    Args:
        kept: (answers,) whether it is a row.
        sizes: (answers,) bytes of its payload; 0 if it is no row.
        listed: (answers,) whether it is a line of rejects.
    """
    count = len(kept)
    most = ((kept, limits.shard_rows), (sizes, limits.shard_bytes), (listed, MAX_BATCH_REJECTS))
    totals = [(np.cumsum(values, dtype=np.int64), limit) for values, limit in most]
    start = 0
    while True:
        before = [int(total[start - 1]) if start else 0 for total, _ in totals]
        ends = [
            int(np.searchsorted(total, so_far + limit)) + 1
            for (total, limit), so_far in zip(totals, before, strict=True)
        ]
        end = max(min(ends), start + 1)
        if end > count:
            yield start, count, True
            return
        yield start, end, False
        start = end


def _counted(answers: pa.Table, kept: Any, start: int, new: dict[int, Kept | Reject]) -> RowBatch:
    """A batch with its counts and rejects, without its rows.

    Args:
        answers: Those of the batch.
        start: The number of the first of them.
        new: Number of an answer -> what is decided, if the worker decided otherwise.
    """
    batch = RowBatch()
    as_before = np.ones(len(kept), bool)
    as_before[[place - start for place in new]] = False
    rows = kept & as_before
    batch.count = int(kept.sum())
    for name in ("distinct", "crossing"):
        flags = answers[name].to_numpy()
        taken = [getattr(each, name) for each in new.values() if isinstance(each, Kept)]
        setattr(batch, name, int(flags[rows].sum()) + sum(taken))
    repairs = answers["repairs"]
    if repairs.null_count < len(repairs):
        for each in repairs.filter(pa.array(rows)).to_pylist():
            batch.repairs.update(each or ())
    for decision in new.values():
        if isinstance(decision, Kept):
            batch.repairs.update(decision.record.repairs)
    out = np.flatnonzero(~kept)
    lines = answers.select(["location", "reason", "bad", "listed"]).take(out).to_pylist()
    for place, line in zip(out.tolist(), lines, strict=True):
        decision = new.get(start + place, Reject(**line))
        assert isinstance(decision, Reject)
        batch.reject(decision)
    return batch


def _as_shard(table: pa.Table, split: str, source: str, about: ModalityInfo, ids: dict[int, Kept | Reject]) -> pa.Table:
    """Rows of workers' shards as one shard holds them: one chunk a column, so that the file has the same bytes.

    Args:
        ids: Number of a row -> what is decided about it, if its id may be another.
    """
    count, schema = table.num_rows, schema_of(about.kind, about)
    columns = {name: table[name] for name in table.column_names}
    columns["split"], columns["source"] = (pa.repeat(pa.scalar(each), count) for each in (split, source))
    if ids:
        own = table["id"].to_pylist()
        in_source = table[ID_IN_SOURCE].to_pylist() if ID_IN_SOURCE in columns else [None] * count
        for row, each in ids.items():
            assert isinstance(each, Kept)
            own[row], in_source[row] = each.record.id, (each.record.extra or {}).get(ID_IN_SOURCE)
        columns["id"] = pa.array(own, pa.string())
        columns[ID_IN_SOURCE] = pa.array(in_source, pa.string())
    for column in optional_columns({name for name, each in columns.items() if each.null_count < count}):
        schema = schema.append(column)
    arrays = [columns[name] for name in schema.names]
    arrays = [each.combine_chunks() if isinstance(each, pa.ChunkedArray) else each for each in arrays]
    return pa.Table.from_arrays(arrays, schema=schema)
