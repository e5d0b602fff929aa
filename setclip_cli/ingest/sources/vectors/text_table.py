"""Vectors in text: CSV or TSV with one column for each dimension, or with one column that holds lists of numbers.

A block of lines is parsed at once by Arrow. If that fails, its lines are parsed one by one, so that a bad line is one
reject and its neighbours are rows.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from setclip_cli.errors import SetClipError, argument, nearest
from setclip_cli.ingest.sources.fields import label_of, split_of
from setclip_cli.ingest.sources.rows import refuse_utf16
from setclip_cli.ingest.sources.streams import lines, open_bytes
from setclip_cli.ingest.sources.tables import MAX_LINE_BYTES, declared_separator, spelled
from setclip_cli.ingest.sources.vectors.blocks import BLOCK_BYTES, Block, Values, VectorFile
from setclip_cli.ingest.sources.vectors.columns import VECTOR_NAMES
from setclip_cli.ingest.sources.vectors.named import id_column_of, other_width

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_SEPARATORS = (",", "\t", ";", "|", " ")
_OTHERS = ("group", "label", "split")
_BLOCK_LINES = 8192
_SAMPLE_ROWS = 10  # that say which columns hold numbers
_NUMBER_IN_LIST = re.compile(r"[^\s,\[\]()]+")


class _Layout(NamedTuple):
    """How the lines are read.

    Attributes:
        header: The names of the columns; of a file without a header line, made-up ones.
        skipped: Lines before the first row that is not empty: the header, comments, ``sep=;``.
        vectors: Places of the columns of numbers, or of the one column of lists.
        lists: Whether it is one column of lists.
        ids: Place of the ids.
        others: group, label and split -> their place.
    """

    separator: str
    header: list[str]
    skipped: int
    vectors: list[int]
    lists: bool
    width: int
    ids: int | None
    others: dict[str, int]


class _Line(NamedTuple):
    number: int
    text: bytes | None  # None: longer than a line may be


class TextVectors(VectorFile):
    """One text file, which may be compressed."""

    def __init__(self, path: Path, *, column: str | None = None, id_column: str | None = None) -> None:
        self._layout = layout = _find_layout(path, column, id_column)
        super().__init__(path, width=layout.width, dtype=np.dtype("<f8"), rows=None, has_ids=layout.ids is not None)
        named = "each line is a vector" if layout.ids is None else "a line is an id and a vector"
        if layout.skipped:
            names = [layout.header[place] for place in layout.vectors]
            named = repr(names[0]) if layout.lists else f"{len(names):,} columns from {names[0]!r} to {names[-1]!r}"
            named = f"the vectors are in {named}"
            if layout.ids is not None:
                named += f", the ids in {layout.header[layout.ids]!r}"
            read = {*layout.vectors, layout.ids, *layout.others.values()}
            if other := [name for place, name in enumerate(layout.header) if place not in read]:
                self.notes.append(f"columns that are not read: {', '.join(map(repr, other[:8]))}")
        self.notes.append(f"{named}; the separator is a {spelled(layout.separator)}")

    def blocks(self, start: int = 0) -> Iterator[Block]:
        row = 0
        for taken in self._line_blocks():
            row += len(taken)
            if row > start:
                yield self._block(taken[max(start - (row - len(taken)), 0) :])

    def _line_blocks(self) -> Iterator[list[_Line]]:
        taken: list[_Line] = []
        size = 0
        for line in _numbered(self.path, self._layout.skipped):
            taken.append(line)
            size += len(line.text or b"")
            if len(taken) == _BLOCK_LINES or size >= BLOCK_BYTES:
                yield taken
                taken, size = [], 0
        if taken:
            yield taken

    def _block(self, taken: list[_Line]) -> Block:
        layout = self._layout
        if not layout.lists:
            with suppress(pa.ArrowException, UnicodeDecodeError, ValueError):
                return self._parsed(taken)
        return self._one_by_one(taken)

    def _parsed(self, taken: list[_Line]) -> Block:
        """The lines as Arrow reads them. Raises what it raises for a line that does not fit."""
        layout = self._layout
        data = b"\n".join(line.text or b"" for line in taken)
        if layout.separator == " ":
            data = b"\n".join(b" ".join(line.split()) for line in data.split(b"\n"))
        names = [str(place) for place in range(len(layout.header))]
        texts = [place for place in (layout.ids, *layout.others.values()) if place is not None]
        types = {
            **dict.fromkeys((names[place] for place in layout.vectors), pa.float64()),
            **dict.fromkeys((names[place] for place in texts), pa.string()),
        }
        table = arrow_csv.read_csv(
            pa.py_buffer(data),
            arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 2),
            arrow_csv.ParseOptions(delimiter=layout.separator, newlines_in_values=False),
            arrow_csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[]),
        )
        if table.num_rows != len(taken):
            raise ValueError("a line is no row, or several")
        values = np.empty((table.num_rows, layout.width), np.float64)
        for place, column in enumerate(layout.vectors):
            values[:, place] = table[names[column]].to_numpy()
        cells = {place: table[names[place]].to_pylist() for place in texts}
        return self._with_texts(taken, values, cells, {})

    def _one_by_one(self, taken: list[_Line]) -> Block:
        layout = self._layout
        values = np.zeros((len(taken), layout.width), np.float64)
        texts = [place for place in (layout.ids, *layout.others.values()) if place is not None]
        found: dict[int, list[str]] = {place: [""] * len(taken) for place in texts}
        unread: dict[int, str] = {}
        for row, line in enumerate(taken):
            cells = _cells_of(line.text, layout.separator, len(layout.header))
            if isinstance(cells, str):
                unread[row] = cells
                continue
            for place in texts:
                found[place][row] = cells[place]
            if layout.lists:
                vector = _numbers_of_list(cells[layout.vectors[0]], layout.width)
            else:
                vector = _numbers(cells, layout)
            if isinstance(vector, str):
                unread[row] = vector
            else:
                values[row] = vector
        return self._with_texts(taken, values, found, unread)

    def _with_texts(
        self, taken: list[_Line], values: Values, cells: dict[int, list[str]], unread: dict[int, str]
    ) -> Block:
        layout = self._layout
        others = {name: cells[place] for name, place in layout.others.items()}
        return Block(
            values,
            None if layout.ids is None else [each.strip() for each in cells[layout.ids]],
            groups=[each.strip() or None for each in others["group"]] if "group" in others else None,
            labels=[label_of(each or None)[0] for each in others["label"]] if "label" in others else None,
            splits=[split_of(each) for each in others["split"]] if "split" in others else None,
            unread=unread,
            places=[f"line {line.number}" for line in taken],
        )


def _numbered(path: Path, skipped: int) -> Iterator[_Line]:
    """The lines that are not empty after ``skipped`` of them, with their numbers."""
    with open_bytes(path) as file:
        for number, raw in enumerate(lines(file, MAX_LINE_BYTES), 1):
            if number == 1 and raw is not None:
                refuse_utf16(path, raw)
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if raw is None or raw.strip():
                if skipped:
                    skipped -= 1
                else:
                    yield _Line(number, raw)


def _cells_of(text: bytes | None, separator: str, needed: int) -> list[str] | str:
    """The cells of a line, or why there are none."""
    if text is None:
        return f"line longer than {MAX_LINE_BYTES:,} bytes"
    try:
        line = text.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{text[error.start]:02x}"
    cells = _split(line, separator)
    if cells is None:
        return "not CSV: a quote is not closed"
    return cells if len(cells) == needed else f"number of fields differs from the others: {len(cells)}, not {needed}"


def _split(line: str, separator: str) -> list[str] | None:
    if separator == " ":
        return line.split()
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return None


def _number(text: str) -> float | None:
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return None


def _numbers(cells: list[str], layout: _Layout) -> list[float] | str:
    numbers = []
    for place in layout.vectors:
        number = _number(cells[place])
        if number is None:
            where = f"column {layout.header[place]!r}"
            if not cells[place].strip():
                return f"empty field in place of a number: {where}"
            return f"no number: {cells[place][:40]!r} in {where}"
        numbers.append(number)
    return numbers


def _numbers_of_list(text: str, width: int | None) -> list[float] | str:
    """The numbers of a list that is written as JSON, as Python, or as NumPy prints it."""
    if "..." in text:
        return "list that was shortened with '...' when it was written"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = [_number(part) for part in _NUMBER_IN_LIST.findall(text)]
    if not isinstance(found, list) or not all(type(each) in (int, float) for each in found):
        return f"no list of numbers: {text[:40]!r}"
    if width is not None and len(found) != width:
        return other_width(len(found), width)
    try:
        return [float(each) for each in found]
    except OverflowError:
        return f"no list of numbers: {text[:40]!r}"


def _find_layout(path: Path, column: str | None, id_column: str | None) -> _Layout:
    """How a file is read, from its first lines."""
    sample: list[str] = []
    skipped = 0
    separators: tuple[str, ...] = _SEPARATORS
    for line in _numbered(path, 0):
        text = (line.text or b"").decode("utf-8", "replace")
        if not sample and (declared := declared_separator(text)):
            separators, skipped = (declared,), skipped + 1
        elif not sample and text.startswith("#"):
            skipped += 1
        else:
            sample.append(text)
        if len(sample) > _SAMPLE_ROWS:
            break
    if not sample:
        raise SetClipError(f"{path}: holds no rows", fix="check that this is the file you meant")
    counts = {separator: len(_split(sample[0], separator) or []) for separator in separators}
    # A space separates numbers only if nothing else does: names of columns have spaces in them.
    separator = max(separators, key=lambda each: counts[each] if each != " " else 1.5 * (counts[each] > 1))
    first = _split(sample[0], separator) or []
    numbers = [_number(cell) is not None and not _counts_up(first) for cell in first]
    mostly = 2 * sum(numbers) > len(first)  # a field of a row may be empty
    if mostly and (numbers[0] or not first[0].strip()):
        if column is not None or id_column is not None:
            raise _no_header(path, first, "vector_column" if column is not None else "id_column")
        header = [f"column {place + 1}" for place in range(len(first))]
        return _Layout(separator, header, skipped, list(range(len(first))), False, len(first), None, {})
    if mostly and len(first) > 2 and column is None:
        header = ["id", *(f"column {place + 1}" for place in range(1, len(first)))]
        return _Layout(separator, header, skipped, list(range(1, len(first))), False, len(first) - 1, 0, {})
    if len(sample) < 2:
        raise SetClipError(f"{path}: has a header line, but no rows", fix="check that this is the file you meant")
    return _with_header(path, separator, [cell.strip() for cell in first], sample[1:], skipped + 1, column, id_column)


def _counts_up(cells: Sequence[str]) -> bool:
    """Whether a line is a header of column numbers, as pandas writes it: 0, 1, 2 and so on, after the ids or alone."""
    tail = cells if cells[0].strip() in ("0", "1") else cells[1:]
    first = tail[0].strip() if tail else ""
    return (
        len(tail) > 2
        and first in ("0", "1")
        and [cell.strip() for cell in tail] == [str(int(first) + n) for n in range(len(tail))]
    )


def _no_header(path: Path, first: Sequence[str], option: str) -> SetClipError:
    return SetClipError(
        f"{path}: its first line has numbers only ({', '.join(first[:4])}, ...), so its columns have no names",
        fix=f"leave {argument(option)} out, or give the file a header line",
    )


def _with_header(
    path: Path,
    separator: str,
    header: list[str],
    rows: list[str],
    skipped: int,
    column: str | None,
    id_column: str | None,
) -> _Layout:
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise SetClipError(f"{path}: has two columns {twice!r}", fix="give one of them another name")
    cells, *others_cells = [_split(row, separator) or [] for row in rows]
    if len(cells) != len(header):
        raise SetClipError(
            f"{path}: line 1 names {len(header):,} columns, but the next line has {len(cells):,} fields",
            fix="write a value for every column of the header, and texts that hold the separator in quotes",
        )
    numbered = header[0] == "" and cells[0].strip() in ("0", "1")  # the row numbers that pandas writes
    ids = id_column_of(path, [name for name in header if name], id_column)
    ids_at = header.index(ids) if ids is not None else 0 if header[0] == "" and not numbered else None
    lower = [name.lower() for name in header]
    others = {name: lower.index(name) for name in _OTHERS if name in lower and lower.index(name) != ids_at}
    free = [place for place in range(len(header)) if place not in (ids_at, *others.values()) and header[place]]
    if column is not None:
        free = [place for place, name in enumerate(header) if name == column] or [
            place for place, name in enumerate(header) if fnmatchcase(name, column)
        ]
        if not free:
            raise SetClipError(
                f"{path}: no column {column!r} among {', '.join(map(repr, header[:20]))}{nearest(column, header)}",
                fix=f"give the name of a column with {argument('vector_column')}, or a pattern such as 'dim_*'",
            )
    lists = [place for place in free if cells[place].strip().startswith(("[", "("))]
    named = [place for place in lists if lower[place] in VECTOR_NAMES]
    lists = named if len(named) == 1 else lists
    if len(lists) == 1:
        found = _numbers_of_list(cells[lists[0]], None)
        if isinstance(found, str):
            raise SetClipError(
                f"{path}: the first row's {header[lists[0]]!r}: {found}", fix="write lists as JSON: [0.1, 0.2]"
            )
        return _Layout(separator, header, skipped, lists, True, len(found), ids_at, others)
    if lists:
        raise SetClipError(
            f"{path}: {len(lists)} columns hold lists: {', '.join(repr(header[place]) for place in lists[:8])}",
            fix=f"say which one holds the vectors: {argument('vector_column')} {header[lists[0]]}",
        )
    known = [cells, *(each for each in others_cells if len(each) == len(header))]  # a field of a row may be empty
    has_numbers = {place for place in free if any(_number(each[place]) is not None for each in known)}
    vectors = free if column is not None else [place for place in free if place in has_numbers]
    if not vectors:
        raise SetClipError(
            f"{path}: none of its columns holds numbers: {', '.join(map(repr, header[:12]))}",
            fix="check that this is the file you meant; write one column for each dimension, or lists as JSON",
        )
    return _Layout(separator, header, skipped, vectors, False, len(vectors), ids_at, others)
