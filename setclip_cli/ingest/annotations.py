"""What a user gives beside the data: labels for evaluation, and the few known pairs."""

from __future__ import annotations

import csv
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from setclip_cli.dataset.dataset import NO_PARTNER
from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality, in_order, place_in_order
from setclip_cli.errors import SetClipError, nearest
from setclip_cli.files.recognize import EMPTY, head_of, recognize, refuse_stand_in
from setclip_cli.ingest.sources.fields import WHOLE_FLOAT
from setclip_cli.ingest.sources.tables import declared_separator

if TYPE_CHECKING:
    from _csv import Reader as _Reader
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{|\[\s*[\[{\"])")
_ID_COLUMNS = ("id", "filename", "file_name", "file", "filepath", "path", "image", "image_id", "image_path", "name")
_LABEL_COLUMNS = ("label", "class", "category", "class_name", "labels", "target")
_PAIR_COLUMNS = ("left_modality", "left_id", "right_modality", "right_id")
_Columns = tuple[tuple[str, ...], ...]  # each with the names that it may have
_PAIRS: _Columns = tuple((name,) for name in _PAIR_COLUMNS)


_FORMULA = re.compile(r"[=+\-@\t\r\uff0b\uff0d\uff1d\uff20]")  # a cell that begins so is a formula to a spreadsheet
_QUOTED = re.compile(rf"'+{_FORMULA.pattern}")


class UnresolvedPair(NamedTuple):
    """A pair as a file or a group gives it, before its ids are looked up among the rows."""

    location: str
    left_modality: Modality
    left_id: str
    right_modality: Modality
    right_id: str


class LoneItem(NamedTuple):
    """An item of which a file says that it has no partner on the other side."""

    location: str
    modality: Modality
    id: str


@dataclass
class PairFile:
    """What a file of pairs says.

    Attributes:
        pairs: The pairs, in the order of the file.
        lone: The items without a partner.
        unanswered: Lines with an item and no partner: nobody has filled them in yet.
    """

    pairs: list[UnresolvedPair] = field(default_factory=list)
    lone: list[LoneItem] = field(default_factory=list)
    unanswered: int = 0

    def add(self, location: str, one: tuple[Modality, str], other: tuple[Modality, str]) -> None:
        """Adds a line, as a modality and an id for each side."""
        if not one[1] or not other[1]:
            self.unanswered += 1
        elif NO_PARTNER in (one[1], other[1]):
            modality, identifier = other if one[1] == NO_PARTNER else one
            if identifier == NO_PARTNER:
                self.unanswered += 1
            else:
                self.lone.append(LoneItem(location, modality, unquoted(identifier)))
        else:
            self.pairs.append(_ordered(location, (one[0], unquoted(one[1])), (other[0], unquoted(other[1]))))


def quoted(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: it gets a ' in front if it begins like one."""
    return f"'{text}" if _FORMULA.match(text) or _QUOTED.match(text) else text


def unquoted(cell: str) -> str:
    """The text that `quoted` was given."""
    return cell[1:] if _QUOTED.match(cell) else cell


def read_labels(path: Path) -> dict[str, str]:
    """Reads a CSV with the columns ``id,label``; their names may also be ``filename`` and ``class``.

    Raises:
        SetClipError: the file cannot be read, a column is missing, a value is empty, or one id has two labels.
    """
    labels: dict[str, str] = {}
    for line, row in _rows(path, (_ID_COLUMNS, _LABEL_COLUMNS)):
        identifier, label = row
        if not identifier or not label:
            raise SetClipError(f"{path}: line {line}: empty id or label", fix="write both, or delete the line")
        if labels.setdefault(identifier, label) != label:
            raise SetClipError(
                f"{path}: line {line}: {identifier!r} has the label {label!r}, but before {labels[identifier]!r}",
                fix="keep one label for each id",
            )
    if not labels:
        raise SetClipError(f"{path}: there are no labels in it", fix="write a header id,label and one line for each id")
    return labels


def whole_numbers(labels: Mapping[str, str]) -> dict[str, str] | None:
    """Labels such as 3.0 as 3, if all are so: pandas writes whole numbers in this way if the column has gaps."""
    found = {identifier: WHOLE_FLOAT.fullmatch(label) for identifier, label in labels.items()}
    numbers = {identifier: str(int(match[1])) for identifier, match in found.items() if match}
    return numbers if numbers and len(numbers) == len(labels) else None


def read_pairs(path: Path, named: Iterable[Modality] = ()) -> PairFile:
    """Reads a CSV of ids under the names of two modalities, such as ``image,caption``.

    It may also have the columns ``left_modality,left_id,right_modality,right_id``, in either order of modality, and
    further columns of any name. A line with one id alone is not answered yet; ``-`` in place of an id says that the
    other item has no partner.

    Args:
        path: The file.
        named: The modalities with names of the user's own.

    Raises:
        SetClipError: the file cannot be read, a column is missing, a modality is unknown, or both sides have the same.
    """
    named = list(named)
    found, modalities = PairFile(), in_order([*KINDS_OF_NAMES, *named])
    if (two := _two_names(path, modalities, named)) is not None:
        for line, ids in _rows(path, ((two[0],), (two[1],))):
            found.add(f"line {line}", (two[0], ids[0]), (two[1], ids[1]))
        return found
    for line, row in _rows(path, _PAIRS):
        left, left_id, right, right_id = row[0].lower(), row[1], row[2].lower(), row[3]
        for modality in (left, right):
            if modality not in modalities:
                raise SetClipError(
                    f"{path}: line {line}: {modality!r} is not a modality{nearest(modality, modalities)}",
                    fix=f"write one of: {', '.join(modalities)}",
                )
        if left == right:
            raise SetClipError(f"{path}: line {line}: both sides are {left}", fix="pair two modalities")
        found.add(f"line {line}", (left, left_id), (right, right_id))
    return found


def _two_names(
    path: Path, modalities: Sequence[Modality], named: Sequence[Modality]
) -> tuple[Modality, Modality] | None:
    """The two modalities that columns of the file are named after; None if it has columns such as ``left_id``.

    Raises:
        SetClipError: it has neither.
    """
    with _table(path, _PAIRS, also=tuple((name,) for name in modalities)) as table:
        header = table.header
    if {*header} & {*_PAIR_COLUMNS}:
        return None
    found = [name for name in header if name in modalities]
    if len(found) == len({*found}) == 2:
        return found[0], found[1]
    first, second = (*named, *KINDS_OF_NAMES)[:2] if len(named) > 1 else (*named, "image", "caption")[:2]
    raise SetClipError(
        f"{path}: line 1 must name two modalities, and it is {', '.join(header) or 'empty'}",
        fix=f"write {first},{second} in the first line if the file holds ids of these; the names can be: "
        f"{', '.join(modalities)}",
    )


def _ordered(location: str, one: tuple[Modality, str], other: tuple[Modality, str]) -> UnresolvedPair:
    """Puts the two sides in the order of files, so that a pair is the same pair either way."""
    left, right = sorted((one, other), key=lambda side: place_in_order(side[0]))
    return UnresolvedPair(location, *left, *right)


class _Table(NamedTuple):
    """An open CSV, of which the header has been read."""

    header: list[str]  # in small letters
    reader: _Reader
    before: int  # lines before the header


@contextmanager
def _table(path: Path, columns: _Columns, also: _Columns = ()) -> Iterator[_Table]:
    """Opens a CSV with a header, whichever separator it has; ``also`` are further columns that it may have."""
    try:
        refuse_stand_in(path)
        _refuse_other_formats(path, columns)
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = declared_separator(first)
            before = 0 if separator is None else 1
            if separator is None:
                file.seek(0)
                separator = _separator(first, (*columns, *also))
            reader = csv.reader(file, delimiter=separator)
            header = [name.strip().lower() for name in next(reader, [])]
            if header:
                header[0] = header[0].removeprefix("#").strip()  # as numpy.savetxt writes it
            yield _Table(header, reader, before)
    except UnicodeDecodeError as error:
        raise SetClipError(f"{path}: not UTF-8 ({error.reason})", fix="save it as UTF-8") from error
    except csv.Error as error:
        raise SetClipError(f"{path}: not CSV ({error})", fix="save it as CSV again") from error
    except OSError as error:
        raise SetClipError(f"{path}: {error.strerror}", fix="check the path") from error


def _rows(path: Path, columns: _Columns) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, values of the wanted columns) of a CSV with a header."""
    with _table(path, columns) as (header, reader, before):
        places = [_place(path, header, names, columns) for names in columns]
        for row in reader:
            if not any(row):
                continue
            if len(row) <= max(places):
                raise SetClipError(
                    f"{path}: line {before + reader.line_num}: has {len(row)} fields, but needs {max(places) + 1}",
                    fix="write a value for every column of the header",
                )
            yield before + reader.line_num, [row[place].strip() for place in places]


def _refuse_other_formats(path: Path, columns: _Columns) -> None:
    """Raises SetClipError for a file that is known and is not CSV, such as JSON or Parquet."""
    head = head_of(path)
    found = recognize(head)
    what = found.what if found else "JSON" if _JSON.match(head) else None
    if what is not None and found is not EMPTY:
        raise SetClipError(
            f"{path}: is {what}, but a CSV file is needed",
            fix=f"write it as CSV with the header {','.join(each[0] for each in columns)}",
        )


def _separator(header: str, columns: _Columns) -> str:
    """The separator with which the header has the most of the wanted columns; a comma if none has any."""

    def known(separator: str) -> int:
        names = {name.strip().strip('"').lower() for name in header.split(separator)}
        return sum(any(name in names for name in wanted) for wanted in columns)

    return max((",", ";", "\t", "|"), key=known)


def _place(path: Path, header: list[str], names: tuple[str, ...], columns: _Columns) -> int:
    place = next((header.index(name) for name in names if name in header), None)
    if place is not None:
        if header.count(header[place]) > 1:
            raise SetClipError(f"{path}: has two columns {header[place]!r}", fix="rename one, or delete it")
        return place
    wanted = ",".join(each[0] for each in columns)
    if not any(name in header for each in columns for name in each):
        raise SetClipError(
            f"{path}: no column {' or '.join(map(repr, names[:4]))}: line 1 is not a known header "
            f"({', '.join(header) or 'nothing'})",
            fix=f"add a first line to the file: {wanted}",
        )
    raise SetClipError(
        f"{path}: no column {' or '.join(map(repr, names[:4]))} among {', '.join(header)}{nearest(names[0], header)}",
        fix=f"rename the columns of the file: {wanted}",
    )
