"""Images in folders and files; `check_image` decides which bytes can be used."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.files.recognize import head_of, recognize, starts_with
from setclip_cli.ingest.sources.base import ORIGINAL, FileStamp, Item, Record, Reject, Walk, stamp, usable_id
from setclip_cli.ingest.sources.check_image import (
    UnusableImageError,
    check_image,
    image_format,
    unread_format,
)
from setclip_cli.ingest.sources.folder import Found, find_files
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.split_folders import FolderNames
from setclip_cli.pixels.bands import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

# A file with one of these suffixes is surely meant to be an image. Of other files, the first bytes say what they are.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".webp", ".avif", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *(".tga", ".icb", ".vda", ".vst", ".pcx", ".ico", ".qoi", ".sgi", ".heic", ".heif"),
)


def image_record(
    identifier: str,
    content: bytes,
    location: str,
    label: str | None = None,
    *,
    made_up: bool,
    split: str | None = None,
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
        extra={ORIGINAL: checked.original} if checked.original else None,
        made_up=made_up,
    )


class ImageFolder(Reader):
    """A folder of image files, read recursively; or one image file.

    The id is the path below the folder. Its folders also give an image its split and its label (see `FolderNames`).
    Links are followed. Hidden files and folders are left out, and counted. The first bytes of a file without an image
    suffix say whether it is an image; if not, it is listed as not taken. So are links to nowhere and folders that
    cannot be read.
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
        paths = (file.name for file in self.files() if file.name not in self.not_images)
        return FolderNames(self.path.resolve().name if self.path.is_dir() else "", paths)

    @cached_property
    def not_images(self) -> dict[str, Reject]:
        """The files that are no images, each with the reason."""
        found = {}
        for name, _, _ in self.files():
            if not name.lower().endswith(IMAGE_SUFFIXES) and (reject := _no_image(f"{self._root}/{name}", name)):
                found[name] = reject
        return found

    def _answer(self, item: Item) -> Record | Reject:
        if isinstance(item.content, Reject):
            return item.content
        name = item.location
        if name in self.not_images:
            return self.not_images[name]
        try:
            content = read_capped(f"{self._root}/{name}")
        except OSError as error:
            return Reject(name, error.strerror or "cannot be read")
        split, label = self.folders.of(name)
        return image_record(name, content, name, label, made_up=True, split=split)


def _no_image(path: str, name: str) -> Reject | None:
    """Why a file without an image suffix is not read as an image; None if its first bytes are those of one."""
    try:
        head = head_of(Path(path))
    except OSError as error:
        return Reject(name, error.strerror or "cannot be read")
    return no_image(head, name)


def no_image(head: bytes, name: str) -> Reject | None:
    """As above, for the first bytes of a file; what it is named does not say that it is an image."""
    if image_format(head):
        return None
    if unread := unread_format(head):
        return Reject(name, f"a format that is not read: {unread}", bad=unread in ("HEIC", "JPEG XL", "JPEG XR"))
    found = recognize(head)
    return Reject(name, f"not an image: {found.what if found else f'starts with {starts_with(head)}'}", bad=False)


def read_capped(path: str) -> bytes:
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
