"""What every reader yields: a record, or the reason why one cannot be used."""

from __future__ import annotations

import hashlib
import os
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from setclip_cli.dataset.modality import Modality

MAX_ID_CHARS = 1024


class Record(NamedTuple):
    """One row that a source offers. Ingest decides whether it is kept: it may be a repeat."""

    modality: Modality
    id: str
    payload: str | bytes  # residues, image bytes or text
    sha256: str  # of the payload; of its UTF-8 if it is text
    label: str | None = None
    split: str | None = None  # as the source says
    group: str | None = None  # what a caption describes: its image's or protein's id
    columns: tuple[object, ...] = ()  # the modality's columns after its payload, in the order of the schema
    repairs: tuple[str, ...] = ()  # what was changed for the user, counted in the summary
    extra: Mapping[str, object] | None = None  # values of dataset.OPTIONAL_COLUMNS
    made_up: bool = False  # whether the program made the id up, and the data do not have it


class Reject(NamedTuple):
    """One record that is not taken."""

    location: str  # inside its source: "line 12", "record 3", a member's path
    reason: str
    bad: bool = True  # False: no data was lost (a file that is not an image, a repeat)

    @property
    def kind(self) -> str:
        """The reason without the details of this record, for counting."""
        return self.reason.partition(": ")[0]


class FileStamp(NamedTuple):
    """Enough of a file to see that it has changed."""

    name: str  # relative to the source, with forward slashes
    size: int
    mtime_ns: int


class Source(Protocol):
    """What the user gave: a file, a folder or an archive."""

    @property
    def path(self) -> Path: ...

    def files(self) -> Sequence[FileStamp]:
        """Everything that is read, in a fixed order; cheap enough for 10,000 files in a second."""
        ...

    def records(self, start: int, workers: int) -> Iterator[Record | Reject]:
        """Yields each record, or why it cannot be used, from number ``start`` on, in an order that never changes.

        Raises:
            SetClipError: the source as a whole cannot be read; what was yielded before stays valid.
        """
        ...


class OneFile:
    """A source that is one file. A reader yields its records from ``_records``, or has its own ``records``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> Sequence[FileStamp]:
        return [stamp(self.path)]

    def records(self, start: int, workers: int) -> Iterator[Record | Reject]:
        del workers  # one stream, one reader
        yield from islice(self._records(), start, None)

    def _records(self) -> Iterator[Record | Reject]:
        raise NotImplementedError


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stamp(path: Path, name: str | None = None) -> FileStamp:
    """Size and time of a file. Raises SetClipError if it is not there."""
    try:
        status = path.stat()
    except OSError as error:
        raise SetClipError(f"{path}: {os.strerror(error.errno or 0)}", fix="check the path") from error
    return FileStamp(name if name is not None else path.name, status.st_size, status.st_mtime_ns)


def usable_id(identifier: str) -> str | None:
    """Why a string cannot be an id, or None if it can."""
    if not identifier:
        return "empty id"
    if len(identifier) > MAX_ID_CHARS:
        return f"id longer than {MAX_ID_CHARS:,} characters"
    if not identifier.isprintable():
        return "id holds control characters"
    return None
