"""Images in folders and files; `check_image` decides which bytes can be used."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources.base import FileStamp, Record, Reject, stamp, usable_id
from setclip_cli.ingest.sources.check_image import MAX_IMAGE_BYTES, UnusableImageError, check_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")
R = TypeVar("R")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")


def image_record(
    identifier: str, content: bytes, location: str, label: str | None = None, *, made_up: bool = True
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
        columns=(checked.width, checked.height),
        repairs=checked.repairs,
        made_up=made_up,
    )


def folder_label(name: str) -> str | None:
    """The name of the folder that a path's file lies in."""
    return name.rpartition("/")[0].rpartition("/")[2] or None


class ImageFolder:
    """A folder of image files, read recursively; or one image file.

    The id is the path below the folder. If the images are in two folders or more, the name of its folder is the
    label of an image. Hidden files and folders are left out. Files without an image suffix are listed as not taken.
    Links to folders are not followed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[FileStamp] | None = None

    def files(self) -> Sequence[FileStamp]:
        if self._files is None:
            self._files = sorted(_walk(self.path)) if self.path.is_dir() else [stamp(self.path)]
        return self._files

    def records(self, start: int, workers: int) -> Iterator[Record | Reject]:
        root = self.path if self.path.is_dir() else self.path.parent
        labelled = self._labelled()
        names = (file.name for file in islice(self.files(), start, None))
        yield from ordered_map(lambda name: self._read(root, name, labelled), names, workers)

    def _labelled(self) -> bool:
        names = (file.name for file in self.files())
        return len({name.rpartition("/")[0] for name in names if name.lower().endswith(IMAGE_SUFFIXES)}) > 1

    def _read(self, root: Path, name: str, labelled: bool) -> Record | Reject:
        if not name.lower().endswith(IMAGE_SUFFIXES):
            return Reject(name, f"no image suffix: {Path(name).suffix or 'none'}", bad=False)
        try:
            content = _read_capped(f"{root}/{name}")
        except OSError as error:
            return Reject(name, error.strerror or "cannot be read")
        return image_record(name, content, name, folder_label(name) if labelled else None)


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


def _walk(root: Path) -> Iterator[FileStamp]:
    stack = [(str(root), "")]
    while stack:
        folder, prefix = stack.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        stack.append((entry.path, f"{prefix}{entry.name}/"))
                    elif entry.is_file():
                        status = entry.stat()
                        yield FileStamp(f"{prefix}{entry.name}", status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise SetClipError(
                f"{folder}: {error.strerror}", fix="make the folder readable, or leave it out"
            ) from error


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Maps in threads; yields results in the order of the items, with a limited number in work.

    A task is 16 items, because one small file is too little work for a task.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    chunk, window = 16, workers * 4
    remaining = iter(items)

    def run(batch: list[T]) -> list[R]:
        return [function(item) for item in batch]

    with ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(run, batch) for _ in range(window) if (batch := list(islice(remaining, chunk)))]
        try:
            while pending:
                yield from pending.pop(0).result()
                if batch := list(islice(remaining, chunk)):
                    pending.append(pool.submit(run, batch))
        finally:
            for future in pending:
                future.cancel()
