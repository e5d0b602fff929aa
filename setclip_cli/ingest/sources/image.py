"""Images in folders and files; `check_image` decides which bytes can be used."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.ingest.sources.base import FileStamp, Item, Record, Reject, Walk, stamp, usable_id
from setclip_cli.ingest.sources.check_image import MAX_IMAGE_BYTES, UnusableImageError, check_image
from setclip_cli.ingest.sources.folder import Found, find_files
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.split_folders import FolderNames

if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")


def image_record(
    identifier: str,
    content: bytes,
    location: str,
    label: str | None = None,
    *,
    split: str | None = None,
    made_up: bool = True,
) -> Record | Reject:
    """Makes a record from the bytes of an image file, or says why it cannot. A path as id is ``made_up``."""
    if unusable := usable_id(identifier):
        return Reject(location, unusable)
    try:
        checked = check_image(content, location)
    except UnusableImageError as error:
        return Reject(location, str(error))
    return Record(
        "image",
        identifier,
        checked.content,
        hashlib.sha256(checked.content).hexdigest(),
        label=label,
        split=split,
        columns=(checked.width, checked.height),
        repairs=checked.repairs,
        made_up=made_up,
    )


class ImageFolder(Reader):
    """A folder of image files, read recursively; or one image file.

    The id is the path below the folder. Its folders also give an image its split and its label (see `FolderNames`).
    Links are followed. Hidden files and folders are left out, and counted. Files without an image
    suffix are listed as not taken, and so are links to nowhere and folders that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._root = path if path.is_dir() else path.parent
        self._found: Found | None = None

    def files(self) -> Sequence[FileStamp]:
        return self._all().files

    def walk(self) -> Walk:
        found = self._all()
        items = (Item(name, None) for name, _, _ in found.files)
        others = (Item(other.location, other) for other in found.others)
        return Walk(chain(items, others), lambda item: (self._answer(item),), one_each=True)

    def _all(self) -> Found:
        if self._found is None:
            self._found = find_files(self.path) if self.path.is_dir() else Found([stamp(self.path)], [])
        return self._found

    @cached_property
    def folders(self) -> FolderNames:
        """What the folders of all images say."""
        paths = (file.name for file in self.files() if file.name.lower().endswith(IMAGE_SUFFIXES))
        return FolderNames(self.path.resolve().name if self.path.is_dir() else "", paths)

    def _answer(self, item: Item) -> Record | Reject:
        if isinstance(item.content, Reject):
            return item.content
        name = item.location
        if not name.lower().endswith(IMAGE_SUFFIXES):
            return Reject(name, f"no image suffix: {Path(name).suffix or 'none'}", bad=False)
        try:
            content = _read_capped(f"{self._root}/{name}")
        except OSError as error:
            return Reject(name, error.strerror or "cannot be read")
        split, label = self.folders.of(name)
        return image_record(name, content, name, label, split=split)


def _read_capped(path: str) -> bytes:
    """Reads a file; one byte more than the limit if it is longer."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        left = min(os.fstat(descriptor).st_size, MAX_IMAGE_BYTES) + 1
        parts = []
        while part := os.read(descriptor, left):
            parts.append(part)
            if len(part) in (left, left - 1):  # the limit, or the size that fstat gave
                break
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)
