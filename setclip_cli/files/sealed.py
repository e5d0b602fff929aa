"""Files of the cache, each with its sha256 beside it. One that has changed is thrown away and made again.

FILE           what can be made again
FILE.sha256    the hash of FILE, written just before FILE gets its name
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.console import note
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic, hashes

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_whole(path: Path) -> bool:
    """Whether a file of the cache is there, with the bytes that were written. If it has changed, it is removed.

    A file of an earlier version has no hash; it gets the one that it has now.
    """
    seal = seal_of(path)
    if not path.is_file():
        return False
    try:
        expected = seal.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        with suppress(SetClipError):  # a cache that cannot be written to
            atomic.write_text(seal, hashes.hash_and_remember(path) + "\n")
        return True
    if hashes.is_unchanged(path, expected):
        return True
    note(f"note: {path}: has changed since it was written to the cache; it is thrown away and made again")
    with suppress(SetClipError):
        atomic.remove_file(path)
        atomic.remove_file(seal)
    return False


@contextmanager
def writing(path: Path, *, needs: int | None = None) -> Iterator[Path]:
    """`atomic.atomic_path` for a file of the cache: its hash is kept too."""
    with atomic.atomic_path(path, needs=needs) as temporary:
        yield temporary
        digest = atomic.sha256_file(temporary)
        atomic.write_text(seal_of(path), digest + "\n")
    hashes.remember(path, digest)


def seal_of(path: Path) -> Path:
    return path.parent.parent / "seals" / path.parent.name / path.name
