"""A source of vectors: the blocks of a file become rows with ids, hashes, and the reason if one cannot be used."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from setclip_cli.errors import SetClipError, argument
from setclip_cli.ingest.sources.base import stamp, usable_id
from setclip_cli.ingest.sources.vectors.blocks import Values, as_stored, stored_dtype
from setclip_cli.ingest.sources.vectors.ids import IdFile, IdRow
from setclip_cli.ingest.sources.vectors.rows import Rows, row_digests
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from setclip_cli.ingest.sources.base import FileStamp, Record, Reject
    from setclip_cli.ingest.sources.vectors.blocks import Block, VectorFile


class VectorSource:
    """A file of vectors, with the ids that the user gives for it.

    Args:
        file: The opened file.
        modality: Name of the modality.
        ids: The user's file of ids.
        scale: What an integer of the file stands for.
    """

    def __init__(
        self, file: VectorFile, *, modality: str, ids: IdFile | None = None, scale: float | None = None
    ) -> None:
        self.path, self._file, self._modality = file.path, file, modality
        self._ids, self._scale = ids, scale
        self.width, self.dtype, self.encoder = file.width, stored_dtype(file.dtype), file.encoder

    def files(self) -> Sequence[FileStamp]:
        if self.path.is_dir():
            found = sorted(path for path in self.path.rglob("*") if path.is_file())
            stamps = [stamp(path, path.relative_to(self.path).as_posix()) for path in found]
        else:
            stamps = [stamp(self.path)]
        return [*stamps, *([stamp(self._ids.path, f"ids: {self._ids.path.name}")] if self._ids else [])]

    def notes(self) -> list[str]:
        notes = list(self._file.notes)
        if self._ids is None and not self._file.has_ids:
            notes.append(f"ids are row numbers, counted from 0: {self._made_up(0)!r} is the first row")
        return notes

    def records(self, start: int, workers: int) -> Iterator[Record | Reject]:
        """The rows one by one, as other sources give them."""
        for rows in self.rows(start):
            yield from map(rows.one, range(len(rows)))

    def rows(self, start: int = 0) -> Iterator[Rows]:
        """The rows from number ``start`` on, in blocks.

        Raises:
            SetClipError: the source cannot be read, or the user's ids are not as many as its rows.
        """
        given = None
        if self._ids is not None:
            if self._file.rows is not None and (count := self._ids.count()) != self._file.rows:
                raise self._other_count(count, self._file.rows)
            given = self._ids.rows(start)
        first = start
        for block in self._file.blocks(start):
            found = None
            if given is not None:
                found = list(islice(given, len(block.values)))
                if len(found) < len(block.values):
                    raise self._other_count(first + len(found), first + len(block.values))
            yield self._rows(block, first, found)
            first += len(block.values)
        if given is not None and (left := sum(1 for _ in given)):
            raise self._other_count(first + left, first)

    def _rows(self, block: Block, first: int, given: list[IdRow] | None) -> Rows:
        values = as_stored(block.values, self._scale)
        reasons = {row: f"its vector {why}" for row, why in unusable_rows(values).items()}
        self._explain_overflow(block.values, reasons)
        labels, splits, groups, ids = block.labels, block.splits, block.groups, block.ids
        if given is not None:
            ids = [each.id for each in given]
            groups = _if_any([each.group for each in given]) or groups
            labels = _if_any([each.label for each in given]) or labels
            splits = _if_any([each.split for each in given]) or splits
            reasons |= {row: each.problem for row, each in enumerate(given) if each.problem is not None}
        places: Sequence[str] = block.places or [f"row {row}" for row in range(first, first + len(values))]
        made_up = ids is None
        if ids is None:
            name = self.path.name
            ids = [f"{name}:{row}" for row in range(first, first + len(values))]
        reasons |= block.unread
        usable = [each or "" for each in ids]
        for row, each in enumerate(usable):
            if not (each and each.isprintable() and len(each) < 256) and (why := usable_id(each)) is not None:
                reasons.setdefault(row, why)
        if groups is not None:
            for row, group in enumerate(groups):
                if group is not None and (why := usable_id(group)) is not None:
                    reasons.setdefault(row, why)
        return Rows(
            self._modality, values, usable, row_digests(values), labels, splits, groups, reasons, places, made_up
        )

    def _explain_overflow(self, found: Values, reasons: dict[int, str]) -> None:
        """Says of numbers that were finite in the file that they are too large for the shard."""
        if found.dtype.kind == "f" and found.dtype.itemsize <= self.dtype.itemsize:
            return
        for row in reasons:
            if np.isfinite(found[row]).all() and "not finite" in reasons[row]:
                reasons[row] = f"its vector has a number that is too large for {self.dtype.name}"

    def _made_up(self, row: int) -> str:
        return f"{self.path.name}:{row}"

    def _other_count(self, ids: int, rows: int) -> SetClipError:
        there = self._ids.path if self._ids is not None else ""
        return SetClipError(
            f"{there}: has {ids:,} ids, but {self.path} has {rows:,} rows",
            fix=f"give {argument('ids')} a file with one id for each row, in the order of the rows, and no other lines",
        )


def _if_any(values: list[str | None]) -> list[str | None] | None:
    return values if any(each is not None for each in values) else None
