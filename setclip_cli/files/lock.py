"""One writer for each folder."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from setclip_cli.errors import SetClipError, argument

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_NAME = ".lock"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds a lock on ``folder`` for the duration of the block; makes the folder if it is missing.

    The operating system frees the lock when its process ends in any way. The file ``.lock`` may stay; it does not mean
    that the folder is locked.

    Raises:
        SetClipError: another process, or another block of this one, holds the lock, or the folder cannot be written to.
    """
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise SetClipError(
            f"{folder}: another setclip process is writing here",
            fix=f"wait until it ends, or choose another {argument('out')}",
        ) from error
    except OSError as error:
        raise SetClipError(
            f"{folder}: cannot be written to ({error.strerror})",
            fix=f"choose another {argument('out')}, or change its permissions",
        ) from error
    try:
        yield
    finally:
        lock.release()
