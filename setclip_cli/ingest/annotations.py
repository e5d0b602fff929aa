"""What a user gives beside the data: labels for evaluation, and the few known pairs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from setclip_cli.dataset.dataset import Pair
from setclip_cli.dataset.modality import MODALITIES, Modality
from setclip_cli.errors import SetClipError, nearest
from setclip_cli.files.recognize import refuse_stand_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from setclip_cli.ingest.sources.base import Record

_ID_COLUMNS = ("id", "filename", "file", "image")
_LABEL_COLUMNS = ("label", "class", "category")
_PAIR_COLUMNS = ("left_modality", "left_id", "right_modality", "right_id")


class UnresolvedPair(NamedTuple):
    """A pair as a file or a group gives it, before its ids are looked up among the rows."""

    location: str
    left_modality: Modality
    left_id: str
    right_modality: Modality
    right_id: str


class Labels:
    """Labels by id, by the last part of an id's path, or by the group of a caption.

    Attributes:
        used: The ids that were found in the records so far.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._labels = read_labels(Path(path)) if path is not None else {}
        self.used: set[str] = set()

    def __len__(self) -> int:
        return len(self._labels)

    def of(self, record: Record) -> str | None:
        if not self._labels:
            return record.label
        for key in (record.id, record.id.rpartition("/")[2], record.group):
            if key is not None and (label := self._labels.get(key)) is not None:
                self.used.add(key)
                return label
        return record.label


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


def read_pairs(path: Path) -> list[UnresolvedPair]:
    """Reads a CSV with the columns ``left_modality,left_id,right_modality,right_id``, in either order of modality.

    Raises:
        SetClipError: the file cannot be read, a column is missing, a modality is unknown, or both sides have the same.
    """
    pairs = []
    for line, row in _rows(path, tuple((name,) for name in _PAIR_COLUMNS)):
        left, left_id, right, right_id = row
        for modality in (left, right):
            if modality not in MODALITIES:
                raise SetClipError(
                    f"{path}: line {line}: {modality!r} is not a modality{nearest(modality, MODALITIES)}",
                    fix=f"write one of: {', '.join(MODALITIES)}",
                )
        if left == right:
            raise SetClipError(f"{path}: line {line}: both sides are {left}", fix="pair two modalities")
        pairs.append(_ordered(f"line {line}", (_modality(left), left_id), (_modality(right), right_id)))
    return pairs


def _modality(name: str) -> Modality:
    return next(modality for modality in MODALITIES if modality == name)


def _ordered(location: str, one: tuple[Modality, str], other: tuple[Modality, str]) -> UnresolvedPair:
    """Puts the two sides in the order of the towers."""
    left, right = sorted((one, other), key=lambda side: MODALITIES.index(side[0]))
    return UnresolvedPair(location, *left, *right)


def pairs_of_groups(captions: Iterable[tuple[str, str | None]], modality: Modality) -> Iterator[UnresolvedPair]:
    """One pair for each (caption id, group) that has a group."""
    for identifier, group in captions:
        if group:
            yield _ordered(f"group of {identifier}", (modality, group), ("caption", identifier))


class IdLookup:
    """Finds ids of one modality, by the whole id or else by the last part of its path.

    Args:
        splits: id -> split of its row.
    """

    def __init__(self, splits: Mapping[str, str]) -> None:
        self._splits = splits
        self._by_name: dict[str, str | None] = {}
        for identifier in splits:
            name = identifier.rpartition("/")[2]
            self._by_name[name] = None if name in self._by_name else identifier

    def find(self, identifier: str) -> tuple[str, str] | None:
        """Returns (id, split), or None if no row, or more than one, has the name."""
        if identifier in self._splits:
            return identifier, self._splits[identifier]
        found = self._by_name.get(identifier)
        return None if found is None else (found, self._splits[found])


def resolve(unresolved: Iterable[UnresolvedPair], ids: Mapping[Modality, IdLookup]) -> Iterator[Pair | tuple[str, str]]:
    """Looks up both ids of each pair; yields the Pair, or (location, reason) if there is no such pair of rows."""
    for pair in unresolved:
        left = ids[pair.left_modality].find(pair.left_id)
        right = ids[pair.right_modality].find(pair.right_id)
        if left is None or right is None:
            modality, missing = (
                (pair.left_modality, pair.left_id) if left is None else (pair.right_modality, pair.right_id)
            )
            yield pair.location, f"pair names an unknown {modality} id: {missing}"
        elif left[1] != right[1]:
            yield pair.location, f"pair joins split {left[1]} with split {right[1]}"
        else:
            yield Pair(pair.left_modality, left[0], pair.right_modality, right[0], left[1])


def _rows(path: Path, columns: tuple[tuple[str, ...], ...]) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, values of the wanted columns) of a CSV with a header."""
    try:
        refuse_stand_in(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            places = []
            for names in columns:
                place = next((header.index(name) for name in names if name in header), None)
                if place is None:
                    raise SetClipError(
                        f"{path}: no column {' or '.join(map(repr, names))} among {', '.join(header) or 'nothing'}",
                        fix=f"start the file with: {','.join(names[0] for names in columns)}",
                    )
                places.append(place)
            for row in reader:
                if not row:
                    continue
                if len(row) <= max(places):
                    raise SetClipError(
                        f"{path}: line {reader.line_num}: has {len(row)} fields, but needs {max(places) + 1}",
                        fix="write a value for every column of the header",
                    )
                yield reader.line_num, [row[place].strip() for place in places]
    except UnicodeDecodeError as error:
        raise SetClipError(f"{path}: not UTF-8 ({error.reason})", fix="save it as UTF-8") from error
    except csv.Error as error:
        raise SetClipError(f"{path}: not CSV ({error})", fix="save it as CSV again") from error
    except OSError as error:
        raise SetClipError(f"{path}: {error.strerror}", fix="check the path") from error
