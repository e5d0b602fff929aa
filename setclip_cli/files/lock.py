"""One writer for each folder."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from setclip_cli.errors import argument
from setclip_cli.files.leftovers import remove_leftovers
from setclip_cli.files.write_errors import InUseError, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_NAME = ".lock"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds a lock on ``folder`` for the duration of the block; makes the folder if it is missing.

    The operating system frees the lock when its process ends in any way. The file ``.lock`` may stay; it does not mean
    that the folder is locked. What killed processes left half-written in the folder is removed, and so is the folder
    itself if the block made it and wrote nothing into it.

    Raises:
        InUseError: another process, or another block of this one, holds the lock.
        WriteError: the folder cannot be written to.
    """
    lock, is_new = FileLock(folder / LOCK_NAME, timeout=0), not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise InUseError(
                f"{folder}: another setclip process is writing here",
                fix=f"wait until it ends, or choose another {argument('out')}",
            ) from error
    try:
        remove_leftovers(folder)
        yield
    finally:
        remove_leftovers(folder)  # of workers that were ended
        if is_new:
            _remove_if_empty(folder)
        lock.release()


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # some systems keep the file of a lock that is held
        if [path.name for path in folder.iterdir()] == [LOCK_NAME]:
            (folder / LOCK_NAME).unlink()
            folder.rmdir()
