"""One writer for each folder."""

from __future__ import annotations

from contextlib import contextmanager
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
    that the folder is locked. What killed processes left half-written in the folder is removed.

    Raises:
        InUseError: another process, or another block of this one, holds the lock.
        WriteError: the folder cannot be written to.
    """
    lock = FileLock(folder / LOCK_NAME, timeout=0)
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
        lock.release()
