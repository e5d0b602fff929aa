"""The one folder in which setclip keeps what it can make again: features, raw rows, vectors, downloads."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$SETCLIP_CACHE``, else ``~/.cache/setclip``."""
    return Path(os.environ.get("SETCLIP_CACHE") or "~/.cache/setclip").expanduser()
