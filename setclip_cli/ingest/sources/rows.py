"""Rows with named fields, from jsonl, csv, tsv and Parquet files, and from text that is a table."""

from __future__ import annotations

import codecs
import csv
import json
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli.errors import SetClipError, argument, nearest
from setclip_cli.files.recognize import head_of, recognize
from setclip_cli.ingest.sources.base import Item, Reject, Walk, left_out
from setclip_cli.ingest.sources.counts import LineCount, watched
from setclip_cli.ingest.sources.fields import WHOLE_FLOAT, WHOLE_LABEL, Fields
from setclip_cli.ingest.sources.streams import lines, open_bytes
from setclip_cli.ingest.sources.tables import (
    MAX_LINE_BYTES,
    SAMPLE_LINES,
    Layout,
    Names,
    cells_of,
    cells_of_line,
    declared_separator,
    fields_without_header,
    find_layout,
    known_columns,
    merged,
    spelled,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from setclip_cli.ingest.sources.base import Record

ROW_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
MAX_ROW_GROUP_BYTES = 2 << 30
NO_OBJECT = "JSON, but no object"
UNQUOTED = "separators inside a text without quotes"
_USUAL_SEPARATORS = {".csv": ",", ".tsv": "\t"}
HEADER_AGAIN = "header line again"  # as in files that were put together
TRAILING_COMMA = "comma after an object of JSON"
_RULE = set("|-: ")  # of a table in Markdown
_BATCH_ROWS = 256
_NO_IMAGES = ("id", "group", "label", "split")
_MAX_KEY_SETS = 1000  # of jsonl rows that are remembered
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


# A location, what is there, and how many lines or rows of the file this accounts for.
Located = tuple[str, "Mapping[str, Any] | Reject", int]


class Table:
    """A file of rows. The fields of a row have the names that the reader knows, if the file has them in some spelling.

    Args:
        path: A file; text may be compressed.
        suffix: What says how it is read, such as ``.csv``; ``.txt`` for a text that may be a table.
        names: The fields that the reader uses.
        skip_images: Whether the bytes of images are left unread; an empty object or their path remains.

    Attributes:
        layout: How the lines are read. None: jsonl, Parquet, or a text that is no table.

    Raises:
        SetClipError: none of the needed columns is there, or one is there twice; the file cannot be read.
    """

    def __init__(self, path: Path, suffix: str, names: Names, *, skip_images: bool = False) -> None:
        self.path, self._suffix, self._names, self._skip_images = path, suffix, names, skip_images
        self._usual = _USUAL_SEPARATORS.get(suffix)
        self._met = self._answered = 0  # items that the walk gave; lines or rows that are in one, or need none
        self._line_count, self._row_count = LineCount(), 0  # what the file holds
        self._declared = False  # whether the first line says the separator, as Excel writes it
        self.layout: Layout | None = None
        if suffix == ".parquet":
            with opened_parquet(path) as file:
                columns = [str(name) for name in file.schema_arrow.names]
            self._check_needed(known_columns(path, columns, names) if columns else None)
        elif self._usual or suffix == ".txt":
            sample = _first_lines(path)
            if sample and (declared := declared_separator(sample[0])):
                self._usual, self._declared, sample = declared, True, sample[1:]
            self.layout = find_layout(path, sample, self._usual, names)
            if self.layout is None and self._usual:
                self._check_needed(cells_of(sample[0], self._usual) if sample else None)
                self.layout = Layout(self._usual, ())

    def walk(self, answers: Callable[[Item], Iterable[Record | Reject]]) -> Walk:
        """A walk over the rows; the content of an item is its fields, or the Reject."""
        whole = self._has_whole_labels()
        self._met = self._answered = 0
        self._line_count, self._row_count = LineCount(), 0
        return Walk(self._items(self._located(), whole), answers, self._stated)

    def _located(self) -> Iterator[Located]:
        if self._suffix == ".parquet":
            return self._parquet()
        if self.layout is None:
            return self._json_lines()
        if self.layout.header is None or not self._usual:
            return self._lines(self.layout)
        return self._csv(self.layout.separator)

    def _has_whole_labels(self) -> bool:
        """Whether all labels of a table as text are like 3.0: so pandas writes a column of numbers with gaps in it.

        The whole table is read for it, but only as far as the labels are so.
        """
        if self.layout is None or "label" not in (self.layout.header or ()):
            return False
        some = False
        for _, fields, _ in self._located():
            if not isinstance(fields, Reject) and (label := fields.get("label")):
                if WHOLE_FLOAT.fullmatch(label.strip()) is None:
                    return False
                some = True
        return some

    def _stated(self) -> int:
        """The items that there must be: those that the walk gave, and lines or rows that it gave no answer to."""
        return self._met + self._line_count.total + self._row_count - self._answered

    def notes(self) -> list[str]:
        """What the summary says about the layout, if it is not what the suffix of the file promises."""
        layout = self.layout
        if layout is None or (layout.header is not None and layout.separator == self._usual):
            return []
        header = "no header line and " if layout.header is None else ""
        return [f"read as a table with {header}the separator {spelled(layout.separator)}"]

    def _check_needed(self, columns: Sequence[str] | None) -> None:
        if columns is not None and not set(columns) & set(self._names.needed):
            raise missing_column(self.path, self._names.needed, columns, self._names.option)

    def _items(self, found: Iterable[Located], whole_labels: bool) -> Iterator[Item]:
        for location, fields, count in found:
            self._met += 1
            self._answered += count
            if whole_labels and isinstance(fields, dict) and fields.get("label"):
                before = fields.repairs if isinstance(fields, Fields) else ()
                fields = Fields(fields, label=float(fields["label"]))
                fields.repairs = (*before, WHOLE_LABEL)
            yield Item(location, fields)

    def _text_lines(self) -> Iterator[tuple[int, str, str | Reject]]:
        declared = self._declared
        for number, (location, line) in enumerate(text_lines(self.path, self._line_count), 1):
            if declared and isinstance(line, str) and line.strip():
                declared = False
                self._answered += 1
            else:
                yield number, location, line

    def _json_lines(self) -> Iterator[Located]:
        renamed: dict[tuple[str, ...], list[str] | Reject] = {}
        for _, location, line in self._text_lines():
            if isinstance(line, Reject):
                yield location, line, 1
            elif line.strip():
                yield location, self._json_fields(line, location, renamed), 1
            else:
                self._answered += 1

    def _json_fields(
        self, line: str, location: str, renamed: dict[tuple[str, ...], list[str] | Reject]
    ) -> Mapping[str, Any] | Reject:
        try:
            fields = parse_json(line)
        except UnusableJsonError as error:
            return Reject(location, str(error))
        except ValueError as error:
            if line.rstrip().endswith("},"):
                found = self._json_fields(line.rstrip().removesuffix(","), location, renamed)
                if isinstance(found, Reject):
                    return found
                fields = Fields(found)
                fields.repairs = (TRAILING_COMMA,)
                return fields
            return Reject(location, f"not JSON: {type(error).__name__}")
        return self.named(fields, location, renamed) if isinstance(fields, dict) else Reject(location, NO_OBJECT)

    def named(
        self, fields: Mapping[str, Any], location: str, renamed: dict[tuple[str, ...], list[str] | Reject]
    ) -> Mapping[str, Any] | Reject:
        """Fields of JSON with the names that the reader knows; ``renamed`` remembers earlier rows."""
        keys = tuple(fields)
        names = renamed.get(keys)
        if names is None:
            try:
                names = known_columns(self.path, keys, self._names)
            except SetClipError as error:
                names = Reject("", f"two fields are one: {error.problem.removeprefix(f'{self.path}: ')}")
            if len(renamed) < _MAX_KEY_SETS:
                renamed[keys] = names
        if isinstance(names, Reject):
            return names._replace(location=location)
        return fields if tuple(names) == keys else dict(zip(names, fields.values(), strict=True))

    def _csv(self, separator: str) -> Iterator[Located]:
        """Rows whose quoted fields may hold line ends. No line is swallowed: each is in a row or a reject."""
        held: list[Reject] = []
        taken: list[int] = []  # the lines of the row that is read
        ended = False

        def decoded() -> Iterator[str]:
            nonlocal ended
            for number, _, line in self._text_lines():
                if isinstance(line, Reject):
                    held.append(line)
                else:
                    taken.append(number)
                    yield line.replace("\0", "\N{REPLACEMENT CHARACTER}") + "\n"
            ended = True

        reader = csv.reader(decoded(), delimiter=separator)
        header: list[str] | None = None
        first: list[str] = []
        while True:
            taken.clear()
            row: list[str] | str | None
            try:
                row = next(reader, None)
            except csv.Error as error:
                row = f"not CSV: {error}"
            for reject in held:
                yield reject.location, reject, 1
            held.clear()
            if row is None:
                return
            if ended and len(taken) > 1:
                row = "quote that is not closed"
            if header is None and row and not isinstance(row, str):
                first, header = row, known_columns(self.path, row, self._names)
                self._answered += len(taken)
            elif row and row == first:
                yield f"line {taken[0]}", left_out(f"line {taken[0]}", HEADER_AGAIN), len(taken)
            elif row:
                found = row if isinstance(row, str) else self._fields(row, header or [], separator)
                yield from _located(found, taken)
            else:
                self._answered += len(taken)

    def _fields(self, row: list[str], header: Sequence[str], separator: str) -> Mapping[str, Any] | str:
        """The fields of a row, or why there are none; empty ones are left out, but for the needed one."""
        if len(row) == len(header):
            return {name: value for name, value in zip(header, row, strict=True) if value or name in self._names.needed}
        cells = merged(row, header, separator, self._names.needed)
        if cells is None:
            return f"number of fields differs from the header: {len(row)}, not {len(header)}"
        fields = Fields(
            {name: value for name, value in zip(header, cells, strict=True) if value or name in self._names.needed}
        )
        fields.repairs = (UNQUOTED,)
        return fields

    def _lines(self, layout: Layout) -> Iterator[Located]:
        """Rows of one line each, as in a text."""
        header: Sequence[str] | None = None
        first = ""
        for number, location, line in self._text_lines():
            if isinstance(line, Reject):
                yield location, line, 1
            elif not line.strip():
                self._answered += 1
            elif layout.header is None:
                yield from _located(fields_without_header(line, layout), [number])
            elif header is None:
                self._answered += 1
                first, header = line, layout.header
            elif line == first:
                yield location, left_out(location, HEADER_AGAIN), 1
            elif layout.separator == "|" and not set(line.strip()) - _RULE:
                yield location, left_out(location, "line between header and rows"), 1
            else:
                cells = cells_of_line(line, header, layout.separator, self._names.needed)
                yield from _located(self._fields(cells, header, layout.separator), [number])

    def _parquet(self) -> Iterator[Located]:
        with opened_parquet(self.path) as file:
            for number in range(file.metadata.num_row_groups):
                size = file.metadata.row_group(number).total_byte_size
                if size > MAX_ROW_GROUP_BYTES:
                    found = f"row group {number} has {size:,} bytes, over the limit of {MAX_ROW_GROUP_BYTES:,}"
                    raise SetClipError(f"{self.path}: {found}", fix="write the file again with smaller row groups")
            columns, images = (None, {}) if not self._skip_images else _without_bytes(file.schema_arrow)
            row, self._row_count = 0, file.metadata.num_rows
            try:
                for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                    known = known_columns(self.path, [str(name) for name in batch.schema.names], self._names)
                    for fields in batch.rename_columns(known).to_pylist():
                        row += 1
                        yield f"row {row}", {**images, **fields} if images else fields, 1
            except (pa.ArrowException, OSError, ValueError) as error:
                raise _not_parquet(self.path, error) from error
            if row != self._row_count:
                raise _not_parquet(self.path, ValueError(f"it says {self._row_count:,} rows, and has {row:,}"))


class UnusableJsonError(ValueError):
    """It is JSON, but cannot be read as the program needs it. ``fix`` says what helps."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(found)
        self.fix = fix


def parse_json(text: str) -> Any:
    """Parses JSON.

    Raises:
        UnusableJsonError: an object has a key twice, of which Python would drop one value; a number of too many
            digits; too many lists or objects in one another.
        ValueError: it is not JSON.
    """
    try:
        return _decode(text)
    except (json.JSONDecodeError, UnusableJsonError):
        raise
    except ValueError as error:
        digits = sys.get_int_max_str_digits()
        raise UnusableJsonError(
            f"JSON with a number of over {digits:,} digits", "write it as text, in quotes"
        ) from error
    except RecursionError as error:
        raise UnusableJsonError("JSON with too many lists or objects in one another", "write it flatter") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise UnusableJsonError(f"JSON with one key twice: {twice!r}", "give each value of an object its own key")
    return fields


_decode = json.JSONDecoder(object_pairs_hook=_object).decode  # json.loads would make a decoder for each line


def _located(found: Mapping[str, Any] | str, taken: Sequence[int]) -> Iterator[Located]:
    """A row at its first line; or the reason why there is none, and a reject for each further line of it."""
    location = f"line {taken[0]}" if taken else "last line"
    if not isinstance(found, str):
        yield location, found, len(taken)
        return
    yield location, Reject(location, found), min(len(taken), 1)
    for number in taken[1:]:
        where = f"line {number}"
        yield where, Reject(where, f"part of a row that is not taken: that of {location}"), 1


def _without_bytes(schema: pa.Schema) -> tuple[list[str], dict[str, Any]]:
    """The columns without the bytes of images, and what stands for images of which nothing else is there."""
    columns: list[str] = []
    images: dict[str, Any] = {}
    for field in schema:
        names = [child.name for child in field.type] if pa.types.is_struct(field.type) else []
        if "bytes" in names:
            columns += [f"{field.name}.{name}" for name in names if name != "bytes"]
            images[field.name] = {}
        elif field.name.lower() not in _NO_IMAGES and (
            pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
        ):
            images[field.name] = {}
        else:
            columns.append(field.name)
    return columns, images


def _first_lines(path: Path) -> list[str]:
    """The first lines that are not empty."""
    found = (line for _, line in text_lines(path) if isinstance(line, str) and line.strip())
    return list(islice(found, SAMPLE_LINES))


def missing_column(path: Path, wanted: Sequence[str], found: Sequence[str], option: str) -> SetClipError:
    return SetClipError(
        f"{path}: no column {' or '.join(map(repr, wanted))} among {', '.join(map(repr, found[:20]))}"
        f"{nearest(wanted[0], found)}",
        fix=f"say which column it is with {argument(option)}, or rename it to {wanted[0]!r}",
    )


def text_lines(path: Path, count: LineCount | None = None) -> Iterator[tuple[str, str | Reject]]:
    """Yields (location, text of a line or the reason why there is none), from line 1.

    ``count`` counts the lines in another way than by cutting them.
    """
    with open_bytes(path) as file:
        for number, raw in enumerate(lines(watched(file, count) if count else file, MAX_LINE_BYTES), 1):
            location = f"line {number}"
            if raw is None:
                yield location, Reject(location, f"line longer than {MAX_LINE_BYTES:,} bytes")
                continue
            if number == 1:
                refuse_utf16(path, raw)
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                yield location, line.decode()
            except UnicodeDecodeError as error:
                yield location, Reject(location, f"not UTF-8: byte 0x{line[error.start]:02x}")


def refuse_utf16(path: Path, start: bytes) -> None:
    """Raises SetClipError if a file begins as UTF-16 does, which Excel and Notepad write."""
    if start.startswith(_UTF16_MARKS):
        raise not_utf8(path, "starts as UTF-16 does")


def not_utf8(path: Path, found: str) -> SetClipError:
    return SetClipError(
        f"{path}: not UTF-8 ({found})",
        fix=f"iconv -f ENCODING -t UTF-8 {path.name} > utf8-{path.name}   (ENCODING is often UTF-16 or ISO-8859-1)",
    )


def opened_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # names of columns may be any bytes
        raise _not_parquet(path, error) from error


def _not_parquet(path: Path, error: Exception) -> SetClipError:
    found = recognize(head_of(path)) if path.is_file() else None
    if found is not None and found.what != "a Parquet file":
        return SetClipError(f"{path}: is not a Parquet file: it is {found.what}", fix=found.fix)
    return SetClipError(f"{path}: is not a readable Parquet file ({error})", fix="download or copy the file again")
