"""What a reader is: a walk over the items of a source, and the answers to each item: records, or reasons.

A source loses nothing. Each thing that the walk meets (a file, a link, a member of an archive, a row, an entry) is an
`Item`, and each item has at least as many answers as things that it holds. `reader` asks for the answers, counts
them, and fails if one is missing.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources.threads import PER_TASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from setclip_cli.dataset.modality import Modality

MAX_ID_CHARS = 1024
ORIGINAL = "original_sha256"  # the optional column that tells pictures apart that became equal when they were changed
_NOT_IN_IDS = frozenset({"Cc", "Zl", "Zp"})  # control characters, line breaks


class Record(NamedTuple):
    """One row that a source offers. Ingest decides whether it is kept: it may be a repeat."""

    modality: Modality  # as its kind is called; ingest gives it the name that the user chose
    id: str
    payload: str | bytes | memoryview | tuple[bytes, ...]  # text, image bytes, bytes of a vector, frames of a video
    sha256: str  # of the payload; of its UTF-8 if it is text; of the frames one after the other
    label: str | None = None
    split: str | None = None  # as the source says
    group: str | None = None  # what a caption describes: its image's or protein's id
    columns: tuple[object, ...] = ()  # the modality's columns after its payload, in the order of the schema
    repairs: tuple[str, ...] = ()  # what was changed for the user, counted in the summary
    extra: Mapping[str, object] | None = None  # values of dataset.OPTIONAL_COLUMNS
    made_up: bool = False  # whether the program made the id up, and the data do not have it
    made_up_group: bool = False  # the same of the group: it means something in its own source only


class Reject(NamedTuple):
    """One record that is not taken, or one item that is no record."""

    location: str  # inside its source: "line 12", "record 3", a member's path
    reason: str
    bad: bool = True  # False: no data was lost (a file that is not an image, a repeat)
    listed: bool = True  # False: it is counted, but is no line of rejects.parquet (a hidden file, a label's file)

    @property
    def kind(self) -> str:
        """The reason without the details of this record, for counting."""
        return self.reason.partition(": ")[0]


class Item(NamedTuple):
    """One thing that the walk over a source meets."""

    location: str
    content: Any  # what the reader needs to answer
    holds: int = 1  # records that are in it for sure, such as the captions of a list: it has as many answers or more


class Walk(NamedTuple):
    """One pass over a source."""

    items: Iterable[Item]  # in an order that never changes
    answers: Callable[[Item], Iterable[Record | Reject]]
    # The number of items as the source itself or another way of counting gives it; asked for after the last item.
    stated: Callable[[], int | None] = lambda: None
    # Whether each item has exactly one answer, which does not depend on the items before it. Then the answers are
    # made in threads, and a resumed ingest skips items without making their answers again.
    one_each: bool = False
    per_task: int = PER_TASK  # items that a thread answers at a time


def left_out(location: str, reason: str) -> Reject:
    """The answer to an item that is no record of this modality and needs no line in rejects.parquet."""
    return Reject(location, reason, bad=False, listed=False)


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

    def notes(self) -> Sequence[str]:
        """How it is read, if its suffix does not say that; for the summary."""
        ...

    def records(self, start: int, workers: int) -> Iterator[Record | Reject]:
        """Yields each record, or why it cannot be used, from number ``start`` on, in an order that never changes.

        Raises:
            SetClipError: the source as a whole cannot be read; what was yielded before stays valid.
        """
        ...


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
    # The spaces that macOS puts into file names, joiners of words and emoji, and marks of direction may be there.
    if not identifier.isprintable():
        kinds = {unicodedata.category(one) for one in identifier}
        if "Cs" in kinds:  # the bytes of a file name, or half of a pair in JSON
            return "name or id that is not UTF-8"
        if kinds & _NOT_IN_IDS:
            return "id holds control characters"
    return None
