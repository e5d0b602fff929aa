"""``--ids FILE``: the id of each row of a source without ids; a table may also give group, label and split."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources.base import Reject
from setclip_cli.ingest.sources.fields import id_of, label_of, split_of
from setclip_cli.ingest.sources.rows import ROW_SUFFIXES, Table, text_lines
from setclip_cli.ingest.sources.streams import inner_suffix
from setclip_cli.ingest.sources.tables import Names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class IdRow(NamedTuple):
    """What the file says about one row."""

    id: str | None
    group: str | None = None
    label: str | None = None
    split: str | None = None
    problem: str | None = None  # why the row has no id


class IdFile:
    """A file with one id a line, or a table (CSV, TSV, jsonl or Parquet) with a column ``id``.

    It is read as a stream: the ids of a large source may need more memory than its blocks.

    Attributes:
        tells: Which of group, label and split the table has.
    """

    def __init__(self, path: Path, *, id_column: str | None = None) -> None:
        self.path = path
        if not path.is_file():
            raise SetClipError(f"{path}: no such file", fix="check the path")
        self._suffix = inner_suffix(path)
        if self._suffix in (".npy", ".npz"):
            raise SetClipError(
                f"{path}: is a NumPy file, but ids are read from text or a table",
                fix="write one id a line: np.savetxt('ids.txt', ids, fmt='%s', encoding='utf-8')",
            )
        self._is_table = self._suffix in ROW_SUFFIXES
        self._id = id_column or "id"
        self._names = Names(frozenset({self._id, "group", "label", "split"}), (self._id,), "id_column", id_column)
        if self._is_table:
            Table(path, self._suffix, self._names)  # it checks the columns

    def count(self) -> int:
        """How many rows the file has."""
        return sum(1 for _ in self.rows())

    def rows(self, start: int = 0) -> Iterator[IdRow]:
        """The rows from number ``start`` on."""
        return islice(self._from_table() if self._is_table else self._from_lines(), start, None)

    def _from_lines(self) -> Iterator[IdRow]:
        empty = 0  # lines at the end of the file do not count
        for location, line in text_lines(self.path):
            if isinstance(line, Reject):
                text, problem = "", line.reason
            else:
                text, problem = line.strip(), None
                if not text:
                    empty += 1
                    continue
                if location == "line 1" and text.lower() == "id":
                    continue
            for _ in range(empty):
                yield IdRow(None, problem="empty line in place of an id")
            empty = 0
            yield IdRow(text, problem=problem)

    def _from_table(self) -> Iterator[IdRow]:
        for item in Table(self.path, self._suffix, self._names).walk(lambda item: ()).items:
            fields = item.content
            if isinstance(fields, Reject):
                if fields.listed:
                    yield IdRow(None, problem=fields.reason)
                continue
            identifier, problem = id_of(fields.get(self._id))
            yield IdRow(
                identifier.strip() if identifier else None,
                id_of(fields.get("group"))[0],
                label_of(fields.get("label"))[0],
                split_of(fields.get("split")),
                problem,
            )
