"""All that is in a folder and below it: files to read, and what is not read, each with the reason.

Links are followed. A folder is read once, under its own name where it is inside, so that a link to it, or a circle of
links, adds nothing; it is known by its device and inode.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from setclip_cli.errors import AccountingError, SetClipError
from setclip_cli.ingest.sources.base import FileStamp, Reject, left_out

HIDDEN = "hidden file or folder"
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Found(NamedTuple):
    """What a folder holds, each part sorted by name; folders that could be read are in neither."""

    files: list[FileStamp]
    others: list[Reject]


def find_files(root: Path) -> Found:
    """Walks a folder, and counts its entries a second time with ``os.walk``.

    Raises:
        SetClipError: the folder cannot be read, or changes while it is read.
        AccountingError: the two counts differ.
    """
    try:
        found, folders = _walk(root)
    except OSError as error:
        raise SetClipError(f"{root}: {error.strerror}", fix="make the folder readable") from error
    met, stated = len(found.files) + len(found.others), _count(root, folders)
    if met != stated:
        if stated != _count(root, folders) or _walk(root)[0] != found:
            raise SetClipError(
                f"{root}: the folder changes while it is read",
                fix="wait until it is complete, and run the command again",
            )
        raise AccountingError(f"{root}: holds {stated:,} entries, but the reader met {met:,}")
    return Found(sorted(found.files), sorted(found.others))


def _walk(root: Path) -> tuple[Found, set[str]]:
    """What is found, and the paths of the folders that were read."""
    found = Found([], [])
    read: set[str] = set()
    seen: set[tuple[int, int]] = set()
    stack: list[tuple[str, str]] = [(str(root), "")]
    links: list[tuple[str, str]] = []
    while stack or links:
        # folders before links to folders: the name of a file is that without a link, if it has one
        folder, prefix = stack.pop() if stack else links.pop(0)
        try:
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                found.others.append(Reject(prefix.rstrip("/"), "link to a folder that is read already", bad=False))
                continue
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                raise
            found.others.append(Reject(prefix.rstrip("/"), f"folder cannot be read: {error.strerror}"))
            continue
        seen.add((status.st_dev, status.st_ino))
        read.add(folder)
        for entry in listed:
            name = f"{prefix}{entry.name}"
            if entry.name.startswith("."):
                found.others.append(left_out(name, HIDDEN))
            elif entry.is_dir(follow_symlinks=False):
                stack.append((entry.path, f"{name}/"))
            elif entry.is_symlink() and Path(entry.path).is_dir():  # False, not an error, for a link in a circle
                links.append((entry.path, f"{name}/"))
            else:
                _add(found, entry, name)
    return found, read


def _add(found: Found, entry: os.DirEntry[str], name: str) -> None:
    """Adds what is neither hidden nor a folder."""
    try:
        status = entry.stat()
    except OSError as error:
        what = "link that leads nowhere" if entry.is_symlink() else "cannot be read"
        found.others.append(Reject(name, f"{what}: {error.strerror}"))
        return
    if stat.S_ISREG(status.st_mode):
        found.files.append(FileStamp(name, status.st_size, status.st_mtime_ns))
    else:
        kind = next((words for is_kind, words in _KINDS if is_kind(status.st_mode)), "of an unknown kind")
        found.others.append(Reject(name, f"no file: {kind}", bad=False))


def _count(root: Path, folders: set[str]) -> int:
    """Entries below a folder, without the folders that were read."""
    total = 0
    for folder, inside, files in os.walk(root, followlinks=True):
        visited = [name for name in inside if f"{folder}/{name}" in folders]
        total += len(files) + len(inside) - len(visited)
        inside[:] = visited
    return total
