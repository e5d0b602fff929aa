"""Whether a file still holds the bytes that setclip wrote. Hashes of large files are remembered until one is touched.

    $SETCLIP_CACHE/hashes/<device>-<inode>.json   the stamp of a file and the sha256 that it had then

The stamp is the path, size, and both times of the file: of its content and of its inode. The second one cannot be set
back with `touch` or `cp -p`, so an edit that keeps size and time is noticed. What changes a disk below the file system
is noticed by `setclip verify` only, which reads every byte.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.cache import cache_place

if TYPE_CHECKING:
    from pathlib import Path

REMEMBERED_BYTES = 1 << 20  # a smaller file is hashed in a millisecond
_TICK_NS = 50_000_000  # two writes in one tick of a file system's clock may have the same time


def require_unchanged(path: Path, sha256: str, *, since: str, listed_in: str, fix: str) -> None:
    """Checks a file before it is used.

    Args:
        sha256: What the file must hash to.
        since: What wrote it, such as ``"ingest"``.
        listed_in: Name of the file that lists it.
        fix: What the user can do.

    Raises:
        SetClipError: the file is missing or cannot be read, or does not have this hash.
    """
    try:
        if is_unchanged(path, sha256):
            return
    except FileNotFoundError:
        raise SetClipError(f"{path}: is missing; {listed_in} lists it", fix=fix) from None
    except OSError as error:
        raise SetClipError(f"{path}: cannot be read ({error.strerror})", fix="check its permissions") from error
    raise SetClipError(f"{path}: has changed since {since} (its sha256 is not the one in {listed_in})", fix=fix)


def is_unchanged(path: Path, sha256: str) -> bool:
    """Whether a file has this hash. Raises OSError if it cannot be read."""
    stamp = _stamp(path)
    if _recall(stamp) == sha256:
        return True
    return hash_and_remember(path) == sha256


def hash_and_remember(path: Path) -> str:
    """sha256 of a file. A large one is not read again until it is touched."""
    before = _stamp(path)
    digest = atomic.sha256_file(path)
    if before["size"] >= REMEMBERED_BYTES and _stamp(path) == before and time.time_ns() - before["changed"] > _TICK_NS:
        _remember(before, digest)
    return digest


def remember(path: Path, sha256: str) -> None:
    """Remembers the hash of a file that this process has just written."""
    stamp = _stamp(path)
    if stamp["size"] >= REMEMBERED_BYTES:
        _remember(stamp, sha256)


def _stamp(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {
        "path": os.fspath(path.absolute()),
        "file": f"{status.st_dev}-{status.st_ino}",
        "size": status.st_size,
        "modified": status.st_mtime_ns,
        "changed": status.st_ctime_ns,
    }


def _recall(stamp: dict[str, Any]) -> str | None:
    """The hash that the file had, if its stamp is the same; else None."""
    if stamp["size"] < REMEMBERED_BYTES:
        return None
    try:
        record = json.loads(_record_path(stamp).read_bytes())
        return str(record.pop("sha256")) if record["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SetClipError):
        return None


def _remember(stamp: dict[str, Any], sha256: str) -> None:
    """Without a cache that can be written to, nothing is remembered and the next use hashes again."""
    with suppress(OSError, SetClipError):
        atomic.write_text(_record_path(stamp), json.dumps({"stamp": stamp, "sha256": sha256}), sync=False)


def _record_path(stamp: dict[str, Any]) -> Path:
    return cache_place("hashes", f"{stamp['file']}.json")
