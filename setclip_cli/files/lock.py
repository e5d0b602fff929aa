"""One writer a folder: an advisory lock that the operating system drops when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds ``folder/.lock`` for the duration; the folder is made when missing.

    Raises:
        SetClipError: another process holds it, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SetClipError(
            f"{folder}: cannot be written to ({error.strerror})", fix="choose another --out, or mend its permissions"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetClipError(
                f"{folder}: another setclip process is writing here",
                fix="wait for it to end, or choose another --out",
            ) from error
        yield
    finally:
        os.close(descriptor)  # the lock goes with it; the empty file stays, so no one can lock a vanished name
