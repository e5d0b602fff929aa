"""What every reader yields: a record, or the reason why there is none."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from setclip_cli.dataset.modality import Modality

MAX_ID_CHARS = 1024


class Record(NamedTuple):
    """One row that a source offers. Whether it is kept (duplicates, taken ids) is for ingest to say."""

    modality: Modality
    id: str
    payload: str | bytes  # residues, image bytes or text
    sha256: str  # of the payload, in UTF-8 where it is text
    label: str | None = None
    split: str | None = None  # as the source states it
    group: str | None = None  # what a caption describes: its image's or protein's id
    columns: tuple[object, ...] = ()  # the modality's columns after its payload, in the order of the schema
    repairs: tuple[str, ...] = ()  # what was changed for the user, counted in the summary
    extra: Mapping[str, object] | None = None  # optional columns, of shards.OPTIONAL_COLUMNS


class Reject(NamedTuple):
    """One record not taken."""

    location: str  # inside its source: "line 12", "record 3", a member's path
    reason: str
    bad: bool = True  # False: no data was lost (a file that is no image, a repeated record)

    @property
    def kind(self) -> str:
        """The reason without what is particular to one record, for counting."""
        return self.reason.partition(": ")[0]


@dataclass(frozen=True)
class ReadOptions:
    """How a source is read, where its suffixes and names do not tell."""

    text_column: str | None = None  # of captions
    sequence_column: str | None = None  # of proteins
    image_column: str | None = None
    layout: str | None = None  # a suffix such as .csv, for a file that has another
    captions_from: str | None = None  # parts of a protein's entry that become captions: name,function,...
    tile: int | None = None  # cut GeoTIFF scenes into tiles of this many pixels
    stride: int | None = None  # from one tile's corner to the next; the tile's size when left out
    bands: str | None = None  # of a GeoTIFF, 1-based, as red,green,blue
    stretch: str | None = None  # percentiles of a GeoTIFF that become black and white


class FileStamp(NamedTuple):
    """Enough of a file to see that it has changed."""

    name: str  # relative to the source, with forward slashes
    size: int
    mtime_ns: int


class Source(Protocol):
    """One thing the user named: a file, a folder or an archive."""

    @property
    def path(self) -> Path: ...

    def files(self) -> Sequence[FileStamp]:
        """Everything that is read, in a fixed order; cheap enough for 10,000 files in a second."""
        ...

    def items(self, start: int, workers: int) -> Iterator[Record | Reject]:
        """Yields all items but the first ``start``, in one order whatever ``workers`` is.

        Raises:
            SetClipError: the source as a whole cannot be read; items already yielded stay valid.
        """
        ...


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stamp(path: Path, name: str | None = None) -> FileStamp:
    """Raises SetClipError when there is no such file."""
    try:
        status = path.stat()
    except OSError as error:
        raise SetClipError(f"{path}: {os.strerror(error.errno or 0)}", fix="check the path") from error
    return FileStamp(name if name is not None else path.name, status.st_size, status.st_mtime_ns)


def usable_id(identifier: str) -> str | None:
    """Why a string cannot be an id, or None when it can."""
    if not identifier:
        return "empty id"
    if len(identifier) > MAX_ID_CHARS:
        return f"id longer than {MAX_ID_CHARS:,} characters"
    if not identifier.isprintable():
        return "id holds control characters"
    return None
