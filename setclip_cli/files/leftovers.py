"""Temporary files: their names say which process writes them, so what a killed process left is known and removed.

.NAME.HOST-PID-START-NUMBER.tmp/   a folder beside NAME, in which NAME is written before it is renamed
.NAME.PID.tmp                      the same of earlier versions, a file
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"\..+\.(?:(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>[0-9a-f]{8})-\d+|(?P<old_pid>\d+))\.tmp")
_OLD_S = 24 * 3600.0  # no file takes a day to write: older ones are left over, on whatever machine they were written
_start = os.getpid(), secrets.token_hex(4)  # of this process: what tells it from an earlier one of its number
_numbers = itertools.count()


def temporary_folder(target: Path) -> Path:
    """A new name beside ``target`` for the folder in which this process writes it."""
    name = target.name[:150]  # a name has at most 255 bytes on most file systems
    return target.with_name(f".{name}.{_host()}-{os.getpid()}-{_this_start()}-{next(_numbers)}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a name is one that a command gives to what it has not finished to write."""
    return _NAME.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Removes what dead processes have left below ``folder``. What a live process may still write stays."""
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if (found := _NAME.fullmatch(name)) and _is_left(Path(place, name), found):
                remove(Path(place, name))
        folders[:] = [name for name in folders if not is_temporary(name)]


def remove_leftovers_of(target: Path) -> None:
    """Removes what dead processes have left of one file, in a folder that holds other things of the user."""
    for path in target.parent.glob(f".{glob.escape(target.name[:150])}.*.tmp"):
        if (found := _NAME.fullmatch(path.name)) and _is_left(path, found):
            remove(path)


def remove(path: Path) -> None:
    """Removes a temporary file or folder; if that fails, the next command tries again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _is_left(path: Path, found: re.Match[str]) -> bool:
    pid = int(found["pid"] or found["old_pid"])
    here = found["host"] in (None, _host())
    if here and pid == os.getpid():
        return found["start"] != _this_start()
    if here and not _is_alive(pid):
        return True
    try:
        return time.time() - path.lstat().st_mtime > _OLD_S
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it belongs to another user
    return True


def _host() -> str:
    """This machine, and this container on it: numbers of processes mean something within both alone."""
    try:
        container = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        container = ""
    return hashlib.sha256(f"{socket.gethostname()} {container}".encode()).hexdigest()[:8]


def _this_start() -> str:
    global _start
    if _start[0] != os.getpid():  # also in a fork
        _start = os.getpid(), secrets.token_hex(4)
    return _start[1]
