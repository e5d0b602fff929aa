"""Tables as text: which separator they have, whether there is a header line, and which columns it names."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, NamedTuple

from setclip_cli.errors import SetClipError, argument

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SEPARATORS = (",", "\t", ";", "|")
MAX_LINE_BYTES = 4 << 20
csv.field_size_limit(MAX_LINE_BYTES)  # else the limit is 131,072 characters
SAMPLE_LINES = 100
_SHARE = 0.8  # of the sampled lines that must have the layout
_SPELLED = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar", " ": "space"}
# An image's file name at the start of a line, perhaps with the number of its caption, then a separator.
_NAME_FIRST = re.compile(
    r"\s*(?P<name>[^\t|;]*?\.(?:jpe?g|png|webp|gif|bmp|tiff?|jp2|avif))(?:#(?P<number>\d+))?"
    r" ?(?P<sep>[\t,;|]| )(?P<text>.*)",
    re.IGNORECASE | re.DOTALL,
)
_TEXT_AND_URL = re.compile(r"(?P<text>[^\t]+)\t(?P<url>https?://[^\s]+)\s*")
_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)
_DECLARED = re.compile(r'\ufeff?"?sep=([^\w\s"]|\t)"?[,;]*[\r\n]*', re.IGNORECASE)
_LINE_OF_HEADER_ALONE = ("text", "caption", "captions", "sentence", "sentences")


class Names(NamedTuple):
    """The names of fields that a reader uses."""

    all: frozenset[str]
    needed: tuple[str, ...]  # one of these must be there
    option: str  # the argument that names the needed column
    chosen: str | None = None  # what the user gave for it


class Layout(NamedTuple):
    """How the lines of a table are read."""

    separator: str
    header: Sequence[str] | None  # the columns; None: each line is an image's name and a text, or a text and a URL
    url_last: bool = False


def declared_separator(line: str) -> str | None:
    """The separator that a first line such as ``sep=;`` names, which Excel writes and reads; None for another line."""
    found = _DECLARED.fullmatch(line)
    return found[1] if found else None


def spelled(separator: str) -> str:
    return _SPELLED.get(separator, repr(separator))


def find_layout(path: Path, sample: Sequence[str], usual: str | None, names: Names) -> Layout | None:
    """The layout of a table from its first lines, or None if they are no table.

    Args:
        path: For messages.
        sample: Its first lines that are not empty.
        usual: The separator that the suffix of the file promises, if any.
        names: The fields that the reader knows.

    Raises:
        SetClipError: two columns of the header can be one field.
    """
    if not sample:
        return None
    separators = SEPARATORS if usual is None else (usual, *(each for each in SEPARATORS if each != usual))
    for separator in separators:
        cells = cells_of(sample[0], separator)
        if not _names_needed(cells, names):
            continue
        if separator == usual or (len(cells) > 1 and _consistent(sample, separator, cells, names, usual)):
            return Layout(separator, known_columns(path, cells, names))
    layout = _without_header(sample) if "text" in names.needed else None
    columns = {line.count("\t") + 1 for line in sample}
    if layout is None and usual is None and len(sample) > 1 and len(columns) == 1 and columns != {1}:
        raise SetClipError(
            f"{path}: each line has {columns.pop()} columns with tabs between them, and no known name for a column",
            fix="name them in a first line, such as image<tab>caption; "
            f"or name the column of the text with {argument(names.option)}",
        )
    return layout


def cells_of(line: str, separator: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []


def _names_needed(cells: Sequence[str], names: Names) -> bool:
    if names.chosen is not None:
        return names.chosen.strip() in cells
    return bool({cell.lower() for cell in cells} & {name.lower() for name in names.needed})


def _consistent(sample: Sequence[str], separator: str, header: Sequence[str], names: Names, usual: str | None) -> bool:
    """Whether the lines have as many cells as the header; if no suffix promises a table, two columns must be known."""
    known = {name.lower() for name in names.all}
    if usual is None and names.chosen is None and sum(cell.lower() in known for cell in header) < 2:
        return False
    counts = [len(cells_of(line, separator)) for line in sample[1:]]
    return sum(count >= len(header) for count in counts) >= _SHARE * len(counts)


def known_columns(path: Path, columns: Sequence[str], names: Names) -> list[str]:
    """The columns by the names that the reader knows: upper case and space around a name do not matter.

    Raises:
        SetClipError: two columns have one name, as far as the reader can tell.
    """
    by_key = {name.lower(): name for name in sorted(names.all)}  # of two spellings, the one in lower case
    columns = [column.strip() for column in columns]
    found: dict[str, list[int]] = {}
    for place, column in enumerate(columns):
        if column.lower() in by_key:
            found.setdefault(column.lower(), []).append(place)
    renamed = list(columns)
    for key, places in found.items():
        chosen = [place for place in places if columns[place] == (names.chosen or "").strip()]
        if len(places) > 1 and len(chosen) != 1:
            spellings = [repr(columns[place]) for place in places]
            raise SetClipError(
                f"{path}: has {len(places)} columns that are {by_key[key]!r}: {', '.join(spellings)}",
                fix="remove all of them but one, or give the others other names",
            )
        for place in places:
            if columns[place] not in names.all and len(places) == 1:
                renamed[place] = by_key[key]
    return renamed


def _without_header(sample: Sequence[str]) -> Layout | None:
    found = [match for line in sample if (match := _NAME_FIRST.fullmatch(line))]
    separators = {match["sep"] for match in found}
    if len(found) >= _SHARE * len(sample) and len(separators) == 1:
        (separator,) = separators
        numbered = any(match["number"] for match in found)
        if separator != " " or numbered or (len(sample) > 1 and len(found) == len(sample)):
            return Layout(separator, None)
    if sum(_TEXT_AND_URL.fullmatch(line) is not None for line in sample) >= _SHARE * len(sample):
        return Layout("\t", None, url_last=True)
    return None


def fields_without_header(line: str, layout: Layout) -> dict[str, str] | str:
    """The fields of a line of a table without a header, or the reason why it has none."""
    if layout.url_last:
        parts = _TEXT_AND_URL.fullmatch(line)
        return {"text": parts["text"], "group": parts["url"]} if parts else "no text, tab and URL as in the other lines"
    match = _NAME_FIRST.fullmatch(line)
    if match is None or match["sep"] != layout.separator:
        return f"no image's name and {spelled(layout.separator)} at the start, as in the other lines"
    name = match["name"].strip()
    fields = {"image": name, "text": _unquoted(match["text"])}
    if match["number"]:
        fields["id"] = f"{name}#{match['number']}"
    return fields


def cells_of_line(line: str, header: Sequence[str], separator: str, needed: Sequence[str]) -> list[str]:
    """The cells of one line. If the text is in the last column, it needs no quotes around its separators."""
    if header[-1] in needed:
        return [_unquoted(cell) for cell in line.split(separator, len(header) - 1)]
    return cells_of(line, separator)


def merged(row: list[str], header: Sequence[str], separator: str, needed: Sequence[str]) -> list[str] | None:
    """A row of more cells than the header, if only its text can hold the separators that are too many."""
    extra = len(row) - len(header)
    if extra > 0 and header[-1] in needed:
        return [*row[: len(header) - 1], separator.join(row[len(header) - 1 :])]
    if extra > 0 and header[0] in needed:
        return [separator.join(row[: extra + 1]), *row[extra + 1 :]]
    return None


def is_header_alone(line: str) -> bool:
    """Whether the first line of a list of captions is the name of a column."""
    return line.strip().lower() in _LINE_OF_HEADER_ALONE


def _unquoted(cell: str) -> str:
    stripped = cell.strip()
    return stripped[1:-1].replace('""', '"') if _QUOTED.fullmatch(stripped) else stripped
