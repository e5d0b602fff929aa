"""The one folder in which setclip keeps what it can make again: features, raw rows, vectors, downloads."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from setclip_cli.errors import UsageError


def cache_folder() -> Path:
    """``$SETCLIP_CACHE``, else ``~/.cache/setclip``. Made if it is missing; files can be written to it.

    Raises:
        SetClipError: it is a file, or it cannot be made or written to.
    """
    setting = os.environ.get("SETCLIP_CACHE")
    folder = Path(setting or "~/.cache/setclip").expanduser()
    shown = f"SETCLIP_CACHE={setting}" if setting else f"{folder} (the cache)"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        found = "is a file, or is inside a file" if is_file else f"cannot be written to ({error.strerror})"
        raise UsageError(f"{shown}: {found}", fix="set SETCLIP_CACHE to a folder that you can write to") from error
