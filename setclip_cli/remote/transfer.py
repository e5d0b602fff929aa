"""Copies files from another machine: in pieces, several files at a time, and again from where a transfer broke off.

    .<hash of NAME>.part   the bytes so far; it becomes NAME when it is whole

A file is whole when it has the size and, where the server's tag is an MD5, the content that was listed; else the server
is asked again whether the file is still the one that was listed.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from setclip_cli import console
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.write_errors import WriteError, free_bytes, writing
from setclip_cli.remote.errors import TRIES, ChangedError, RemoteError, lasts, trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tqdm import tqdm

    from setclip_cli.remote.store import Entry, Store

PARALLEL = 8
PARALLEL_SENT = 4  # each of them may be in memory
_PART = re.compile(r"\.[0-9a-f]{32}\.part")
_MD5 = re.compile(r"[0-9a-f]{32}")
OTHER_DISK = "SETCLIP_CACHE can name a folder on another disk: what is elsewhere is copied there first"


class _StoppedError(Exception):
    """The command ends, so this transfer does too."""


@contextmanager
def bar(total: int, label: str) -> Iterator[tqdm[object]]:
    """Progress in bytes."""
    shown: tqdm[object] = console.progress((), total=total or None, label=label, unit="B")
    shown.unit_scale = True
    with shown:
        yield shown


def each(action: Callable[[str, threading.Event], None], names: Sequence[str], parallel: int) -> None:
    """Does something for each name, several at a time. The first that fails stops the others."""
    stopped = threading.Event()
    pool = ThreadPoolExecutor(parallel)
    try:
        for _ in pool.map(lambda name: action(name, stopped), names):
            pass
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


def fetch(store: Store, entries: Mapping[str, Entry], names: Sequence[str], target: Callable[[str], Path]) -> None:
    """Copies files to this machine.

    Args:
        entries: The files of the place.
        names: Those to copy.
        target: Where each one goes.

    Raises:
        ChangedError: a file is not any more what was listed.
        RemoteError: the server breaks off again and again, or refuses it.
        WriteError: the disk is full, for instance.
    """
    total = sum(max(entries[name].size, 0) for name in names)
    free, folder = free_bytes(target(names[0]))
    if free is not None and total > free:
        raise WriteError(
            f"{store.place.shown}: has {total:,} bytes to copy, and {free:,} are free in {folder}",
            fix=f"free some space there; {OTHER_DISK}",
        )
    with bar(total, f"copy {store.place.name}") as shown:
        try:
            each(
                lambda name, stopped: _fetch(store, name, entries[name], target(name), shown, stopped), names, PARALLEL
            )
        except WriteError as error:
            raise error.with_fix(OTHER_DISK) from error


def _fetch(store: Store, name: str, entry: Entry, path: Path, shown: tqdm[object], stopped: threading.Event) -> None:
    part = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.part")
    atomic.make_folder(path.parent)
    if entry.size < 0:
        raise RemoteError(
            f"{store.place.inside(name).shown if name else store.place.shown}: the server does not say how large it is",
            fix="download it yourself, and give its path",
        )
    failures = 0
    while True:
        if stopped.is_set():
            raise _StoppedError
        start = part.stat().st_size if part.exists() else 0
        if start > entry.size:
            atomic.remove_file(part)
            continue
        if start == entry.size and part.exists():
            break
        end = min(start + store.piece_bytes, entry.size)
        try:
            content = store.read(name if entry.key is None else entry.key, start, end) if end > start else b""
            if not content and end > start:
                raise ConnectionError("it sent nothing")
        except (SetClipError, ChangedError):
            raise
        except FileNotFoundError:
            raise ChangedError(name) from None
        except Exception as error:
            failures += 1
            if failures >= TRIES or lasts(error):
                raise trouble(store.place.inside(name) if name else store.place, error, "be read") from None
            time.sleep(0.2 * 3 ** (failures - 1))
            continue
        if len(content) > end - start:
            raise ChangedError(name)
        failures = 0
        with writing(part, needs=entry.size), part.open("ab") as file:
            file.write(content)
        shown.update(len(content))
    if not _is_listed(store, name, entry, part):
        atomic.remove_file(part)
        raise ChangedError(name)
    with writing(path):
        os.utime(part, ns=(entry.mtime_ns, entry.mtime_ns))
        part.replace(path)


def _is_listed(store: Store, name: str, entry: Entry, part: Path) -> bool:
    """Whether the bytes that came are those of the file that was listed."""
    if _MD5.fullmatch(entry.tag) and has_tag(part, entry):
        return True
    now = store.look(name if entry.key is None else entry.key)
    return now is not None and now.state == entry.state


def is_part(name: str) -> bool:
    """Whether a file's name is one that this module gives to what has not come over yet."""
    return _PART.fullmatch(name) is not None


def has_tag(path: Path, entry: Entry) -> bool:
    """Whether a file may be the one with this tag. Only a tag that is an MD5 says more than that."""
    if not _MD5.fullmatch(entry.tag):
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == entry.tag


def is_here(path: Path, entry: Entry) -> bool:
    """Whether a file was copied before, and nobody has touched it."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_size == entry.size and abs(status.st_mtime_ns - entry.mtime_ns) < 1_000_000
