"""Files appear whole or not at all: they are written under a temporary name, synced to disk, and renamed.

Everything that the package writes goes through this file or through `write_errors.writing`; a test holds that.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from setclip_cli.files import leftovers
from setclip_cli.files.write_errors import writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import TextIO


_UMASK = os.umask(0)  # it can only be read by setting it, so this is done at import, before there are threads
os.umask(_UMASK)


@contextmanager
def atomic_path(target: Path, *, needs: int | None = None, sync: bool = True) -> Iterator[Path]:
    """Yields a temporary path. After the block the file there is synced to disk and renamed to the target.

    After an error or an interrupt the temporary file is removed, and an earlier target stays as it was. It has a folder
    of its own beside the target, because some writers make temporary files of their own beside it.

    Args:
        target: The file to write; its folder is made if it is missing.
        needs: Bytes that it will have, if that is known; the message about a full disk tells it.
        sync: False does not wait for the disk. It is for a file that is made again from another one after a power cut.

    Raises:
        WriteError: the file cannot be written, whatever library writes it in the block.
    """
    folder = leftovers.temporary_folder(target)
    temporary = folder / target.name
    try:
        with writing(target, needs=needs, written=temporary):
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            yield temporary
            if sync:
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
            temporary.chmod(0o666 & ~_UMASK)  # some writers make private files
            temporary.replace(target)
            if sync:
                _fsync_folder(target.parent)
    finally:
        leftovers.remove(folder)


@contextmanager
def appending(target: Path) -> Iterator[TextIO]:
    """Opens a text file to add lines to it. After the block they are on disk.

    A failure may leave a line that is cut short: whoever reads the file must expect one.

    Raises:
        WriteError: the file cannot be written.
    """
    with writing(target), target.open("a", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: Path) -> Path:
    """Makes a folder and those above it, if they are missing.

    Raises:
        WriteError: it cannot be made, or it is a file.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove_file(path: Path) -> None:
    """Removes a file, if it is there.

    Raises:
        WriteError: it cannot be removed.
    """
    with writing(path):
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder with all that it holds. A link in its place is refused.

    Raises:
        WriteError: it cannot be removed.
    """
    with writing(folder):
        shutil.rmtree(folder)


def move(source: Path, target: Path) -> None:
    """Gives a file that is whole another name on the same disk; what was there is replaced."""
    move_all({source: target})


def move_all(moves: Mapping[Path, Path]) -> None:
    """The same of several files, old name -> new name; a folder is synced once."""
    for source, target in moves.items():
        with writing(target):
            source.replace(target)
    for folder in dict.fromkeys(target.parent for target in moves.values()):
        with writing(folder):
            _fsync_folder(folder)


def write_bytes(target: Path, content: bytes, *, sync: bool = True) -> None:
    with atomic_path(target, needs=len(content), sync=sync) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, content: str, *, sync: bool = True) -> None:
    write_bytes(target, content.encode(), sync=sync)


def write_texts(contents: Mapping[Path, str]) -> None:
    """Writes files that belong together: all are written before the first one is renamed; the last is renamed last."""
    with ExitStack() as stack:
        for target, content in reversed(list(contents.items())):  # the stack renames the last one first
            encoded = content.encode()
            stack.enter_context(atomic_path(target, needs=len(encoded))).write_bytes(encoded)


def write_json(target: Path, content: dict[str, Any]) -> None:
    """Sorted keys and a final newline, so equal content gives equal bytes."""
    write_text(target, json_text(content))


def json_text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(descriptor)
