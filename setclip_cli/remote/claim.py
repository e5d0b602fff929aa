"""Who writes at a place: one command at a time. A file there says so, and ends with its writer."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError, argument
from setclip_cli.files.write_errors import InUseError
from setclip_cli.remote.commit import CLAIM
from setclip_cli.remote.errors import tried

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from setclip_cli.remote.store import Store

CLAIM_EVERY_S = 60.0
CLAIM_ENDS_S = 15 * 60.0


def machine() -> str:
    """Tells machines, and containers of one machine, from each other: the numbers of their processes are their own."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


class Claim:
    """That this process writes at a place: a file there, made anew each minute."""

    def __init__(self, store: Store) -> None:
        self._store, self._stopped = store, threading.Event()
        self._own = {"writer": secrets.token_hex(8), "host": socket.gethostname(), "pid": os.getpid(), "of": machine()}
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def content(self) -> bytes:
        return json.dumps({**self._own, "at": datetime.now(UTC).isoformat(timespec="seconds")}).encode()

    def take(self) -> None:
        for _ in range(2):
            if self._store.create(CLAIM, self.content()):
                self._thread.start()
                return
            holder = self._holder()
            if holder is None:
                continue
            if not self._has_ended(holder):
                raise InUseError(
                    f"{self._store.place.shown}: another setclip command is writing here ({holder.get('host')}, "
                    f"process {holder.get('pid')}, last seen {holder.get('at')})",
                    fix=f"wait until it ends, or choose another {argument('out')}. If it was killed, its claim ends "
                    f"after {CLAIM_ENDS_S / 60:g} minutes",
                )
            self._store.remove(CLAIM)
        raise InUseError(
            f"{self._store.place.shown}: another setclip command is writing here", fix="wait until it ends"
        )

    def require(self) -> None:
        """Checks before a change that readers see that nobody has taken over."""
        holder = self._holder()
        if holder is None or holder.get("writer") != self._own["writer"]:
            raise SetClipError(
                f"{self._store.place.shown}: another command has taken over the writing there",
                fix="run the same command again, after the other has ended",
            )

    def give_back(self) -> None:
        self._stopped.set()
        with suppress(SetClipError):
            holder = self._holder()
            if holder is not None and holder.get("writer") == self._own["writer"]:
                self._store.remove(CLAIM)

    def _holder(self) -> dict[str, Any] | None:
        def read() -> bytes | None:
            entry = self._store.look(CLAIM)
            try:
                return None if entry is None else self._store.read(CLAIM, 0, max(entry.size, 1))
            except FileNotFoundError:
                return None

        content = tried(read, self._store.place, "be read")
        if content is None:
            return None
        try:
            found: dict[str, Any] = json.loads(content)
        except ValueError:
            return {}
        return found

    def _has_ended(self, holder: Mapping[str, Any]) -> bool:
        if holder.get("of") == self._own["of"] and isinstance(holder.get("pid"), int):
            try:
                os.kill(int(holder["pid"]), 0)
            except ProcessLookupError:
                return True
            except (OSError, OverflowError):
                pass
        try:
            seen = datetime.fromisoformat(str(holder.get("at")))
        except ValueError:
            return False
        return (datetime.now(UTC) - seen).total_seconds() > CLAIM_ENDS_S

    def _renew(self) -> None:
        while not self._stopped.wait(CLAIM_EVERY_S):
            with suppress(Exception):  # the next one may do it, and `require` looks before a change
                self.require()
                self._store.send_bytes(self.content(), CLAIM)


@contextmanager
def claimed(store: Store) -> Iterator[Claim]:
    claim = Claim(store)
    claim.take()
    try:
        yield claim
    finally:
        claim.give_back()
