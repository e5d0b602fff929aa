"""Rows with named fields, from jsonl, csv, tsv and Parquet files."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli.errors import SetClipError, argument, nearest
from setclip_cli.ingest.sources.base import Item, Reject, Walk
from setclip_cli.ingest.sources.streams import inner_suffix, lines, open_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from setclip_cli.ingest.sources.base import Record

ROW_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
MAX_LINE_BYTES = 4 << 20
MAX_ROW_GROUP_BYTES = 2 << 30
_BATCH_ROWS = 256
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Located = tuple[str, "Mapping[str, Any] | Reject"]


def read_rows(path: Path, layout: str | None = None) -> Iterator[Located]:
    """Yields (location, fields or the reason why there are none) for each row; empty fields are left out.

    Args:
        path: A file; text may be compressed.
        layout: A suffix such as ``.csv``, if the suffix of the file does not say the layout.

    Raises:
        SetClipError: the file is UTF-16, not a Parquet file, or cut short.
    """
    suffix = layout or inner_suffix(path)
    if suffix == ".parquet":
        return _parquet(path)
    if suffix in (".csv", ".tsv"):
        return _separated(path, "\t" if suffix == ".tsv" else ",")
    return _json_lines(path)


def walk_rows(path: Path, answers: Callable[[Item], Iterable[Record | Reject]], layout: str | None = None) -> Walk:
    """A walk over the rows of a table; the content of an item is the fields, or the Reject."""
    return Walk((Item(location, fields) for location, fields in read_rows(path, layout)), answers)


def first_named(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of the named fields that has a value, or None."""
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)


def text_of(value: Any) -> str | None:
    """A label, split or id as text; None if it is neither text nor a number."""
    return str(value) if isinstance(value, str | int | float) else None


def missing_column(path: Path, wanted: Sequence[str], found: Sequence[str], option: str) -> SetClipError:
    return SetClipError(
        f"{path}: no column {' or '.join(map(repr, wanted))} among {', '.join(map(repr, found[:20]))}"
        f"{nearest(wanted[0], found)}",
        fix=f"say which column it is with {argument(option)}, or rename it to {wanted[0]!r}",
    )


def text_lines(path: Path) -> Iterator[tuple[str, str | Reject]]:
    """Yields (location, text of a line or the reason why there is none), from line 1."""
    with open_bytes(path) as file:
        for number, raw in enumerate(lines(file, MAX_LINE_BYTES), 1):
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


def _json_lines(path: Path) -> Iterator[Located]:
    for location, line in text_lines(path):
        if isinstance(line, Reject):
            yield location, line
            continue
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield location, Reject(location, f"not JSON: {type(error).__name__}")
            continue
        yield location, fields if isinstance(fields, dict) else Reject(location, "JSON, but no object")


def _separated(path: Path, separator: str) -> Iterator[Located]:
    held: list[Reject] = []

    def decoded() -> Iterator[str]:
        for _, line in text_lines(path):
            if isinstance(line, Reject):
                held.append(line)
            else:
                yield line.replace("\0", "\N{REPLACEMENT CHARACTER}") + "\n"

    reader = csv.reader(decoded(), delimiter=separator)
    header: list[str] | None = None
    while True:
        location = f"line {reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            held.append(Reject(location, f"not CSV: {error}"))
            continue
        yield from ((reject.location, reject) for reject in held)
        held.clear()
        if row is None:
            return
        if not row:
            continue
        if header is None:
            header = [name.strip() for name in row]
        elif len(row) != len(header):
            reason = f"number of fields differs from the header: {len(row)}, not {len(header)}"
            yield location, Reject(location, reason)
        else:
            yield location, {name: value for name, value in zip(header, row, strict=True) if value}


def columns_of(path: Path, layout: str | None = None) -> list[str] | None:
    """The names of the columns of a table; None for jsonl, where each row has its own."""
    suffix = layout or inner_suffix(path)
    if suffix == ".parquet":
        with opened_parquet(path) as file:
            return [str(name) for name in file.schema_arrow.names]
    if suffix not in (".csv", ".tsv"):
        return None
    separator = "\t" if suffix == ".tsv" else ","
    for _, line in text_lines(path):
        if isinstance(line, str) and line.strip():
            return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    return []


def opened_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from error


def _not_parquet(path: Path, error: Exception) -> SetClipError:
    return SetClipError(f"{path}: is not a readable Parquet file ({error})", fix="download or copy the file again")


def _parquet(path: Path) -> Iterator[Located]:
    with opened_parquet(path) as file:
        for number in range(file.metadata.num_row_groups):
            size = file.metadata.row_group(number).total_byte_size
            if size > MAX_ROW_GROUP_BYTES:
                raise SetClipError(
                    f"{path}: row group {number} has {size:,} bytes, over the limit of {MAX_ROW_GROUP_BYTES:,}",
                    fix="write the file again with smaller row groups",
                )
        row = 0
        try:
            for batch in file.iter_batches(_BATCH_ROWS):
                for fields in batch.to_pylist():
                    row += 1
                    yield f"row {row}", fields
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _not_parquet(path, error) from error
