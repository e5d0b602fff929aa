"""What all kinds of places can be asked: what is there, a range of its bytes; and to write, copy and remove files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.remote.place import Place


PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class Entry:
    """A file on another machine, as the server describes it.

    Attributes:
        size: Bytes; -1 if the server does not say.
        tag: What the server gives other content another of; empty if it gives none.
        modified_s: Seconds since 1970; 0 if the server does not say.
        key: Where the server has it, relative to the folder, if not at its own name.
    """

    size: int
    tag: str
    modified_s: int = 0
    key: str | None = None

    @property
    def state(self) -> list[Any]:
        return [self.size, self.tag]

    @property
    def mtime_ns(self) -> int:
        """A time for the local copy: the same on each machine, and another one for other content."""
        if not self.tag:
            return self.modified_s * 1_000_000_000
        digest = int(hashlib.sha256(f"{self.size} {self.tag}".encode()).hexdigest()[:15], 16)
        return 1_000_000_000_000_000_000 + digest % 500_000_000_000_000_000


class Store(Protocol):
    """The server of one place. ``relative`` is a path in its folder, and empty for a place that is a file."""

    place: Place
    identity: str  # what tells its server from another one
    piece_bytes: int  # to ask for at once

    def entries(self) -> dict[str, Entry]:
        """The files in the folder; ``{"": entry}`` if the place is a file; empty if nothing is there."""

    def look(self, relative: str) -> Entry | None: ...

    def read(self, relative: str, start: int, end: int) -> bytes: ...

    def send(self, local: Path, relative: str) -> None: ...

    def send_bytes(self, content: bytes, relative: str) -> None: ...

    def create(self, relative: str, content: bytes) -> bool:
        """Writes a file that is not there; False if it is."""

    def copy(self, source: str, target: str) -> None: ...

    def remove(self, relative: str) -> None: ...
