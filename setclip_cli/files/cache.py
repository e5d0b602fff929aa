"""The one folder in which setclip keeps what it can make again: features, raw rows, vectors, downloads."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.console import note
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.files.leftovers import remove_leftovers
from setclip_cli.files.write_errors import WriteError

if TYPE_CHECKING:
    from collections.abc import Iterator

_OTHER_CACHE = "set SETCLIP_CACHE to a folder that you can write to"


def cache_folder() -> Path:
    """``$SETCLIP_CACHE``, else ``~/.cache/setclip``. Made if it is missing; files can be written to it.

    Raises:
        SetClipError: it is a file, or it cannot be made or written to.
    """
    folder = cache_root()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SetClipError(f"{_shown()}: cannot be written to ({error.strerror})", fix=_OTHER_CACHE) from error
    _clean(folder)
    return folder


def cache_place(kind: str, name: str, *, cache_dir: Path | None = None) -> Path:
    """Where the cache keeps a file. A command reads it if it is there, and writes it in a block of `if_cache_takes_it`.

    Args:
        kind: Name of a folder in the cache.
        name: The file's name there.
        cache_dir: In place of ``$SETCLIP_CACHE``.

    Raises:
        SetClipError: exit code 2; the cache is a file.
    """
    folder = cache_dir or cache_root()
    if folder.is_dir():
        _clean(folder)
    return folder / kind / name


@contextmanager
def if_cache_takes_it() -> Iterator[None]:
    """A block that writes a file of the cache. If it cannot be written, a note says so, and the command goes on."""
    try:
        yield
    except WriteError as error:
        _note_once(f"note: {error.problem}. The command goes on without it; it will be made again each time")


@contextmanager
def cache_must_take_it() -> Iterator[None]:
    """A block that writes a file of the cache which the command reads again: it cannot go on without it."""
    try:
        yield
    except WriteError as error:
        raise error.with_fix("SETCLIP_CACHE can name another folder") from error


def cache_root() -> Path:
    """Where the cache is, or would be: it may be missing.

    Raises:
        SetClipError: exit code 2; it is a file, or in one.
    """
    folder = Path(os.environ.get("SETCLIP_CACHE") or "~/.cache/setclip").expanduser()
    nearest = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if nearest.is_file():
        raise UsageError(f"{_shown()}: is a file, or is inside a file", fix=_OTHER_CACHE)
    return folder


def _shown() -> str:
    setting = os.environ.get("SETCLIP_CACHE")
    return f"SETCLIP_CACHE={setting}" if setting else f"{Path('~/.cache/setclip').expanduser()} (the cache)"


@lru_cache  # once a process
def _clean(folder: Path) -> None:
    remove_leftovers(folder)


_noted: set[str] = set()


def _note_once(message: str) -> None:
    """One note for each cache: a command may try to write many files."""
    shown = _shown()
    if shown not in _noted:
        _noted.add(shown)
        note(f"{message}. Free some space, or {_OTHER_CACHE}")
