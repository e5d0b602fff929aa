"""Local copies of what is read on other machines: each state of a place has a folder of its own in the cache.

    $SETCLIP_CACHE/remote/<place>/<state>/NAME   the file or folder; NAME is the last part of the place

Another state has another folder, so that no command sees a mix. A file that is the same in both is linked, not copied
again. A state that no command has used is removed: after a day if there is a newer one, else after a month.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from setclip_cli.console import note, visible
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.cache import cache_folder
from setclip_cli.files.write_errors import writing
from setclip_cli.places import call, is_elsewhere
from setclip_cli.remote.commit import committed, is_ours
from setclip_cli.remote.errors import TRIES, ChangedError
from setclip_cli.remote.hub import hub_copy, not_to_a_hub
from setclip_cli.remote.place import Place, parse_place
from setclip_cli.remote.store import Entry, Store
from setclip_cli.remote.stores import open_store
from setclip_cli.remote.transfer import fetch, is_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_UNUSED_S = 24 * 3600.0
_SEALED = (".parquet", ".safetensors", ".png", ".jpg", ".jpeg", ".webp", ".npy")  # nothing writes into such a file


def local_path(given: str | Path) -> Path:
    """The path of a local copy of a place; a path stays what it is.

    Raises:
        SetClipError: nothing is there, it cannot be read, or it cannot be copied to the cache.
    """
    if not is_elsewhere(given):
        return Path(given)
    return copy_of(parse_place(str(given)))


def copy_if_any(place: Place) -> Path:
    """`copy_of`, but a path at which nothing is if nothing is at the place."""
    if place.scheme == "hub":
        raise not_to_a_hub(place)
    store = open_store(place)
    if store.entries():
        return copy_of(place)
    root = folder_of(store) / "nothing" / place.name
    call_by_name(root, place)
    return root


def copy_of(place: Place, part: Callable[[str], bool] = lambda _name: True) -> Path:
    """The local copy of a place as it is now. Raises SetClipError as `local_path` does.

    Args:
        part: The files that are needed, by their names in the place; the others may be missing in the copy.
    """
    if place.scheme == "hub":
        return hub_copy(place)
    store = open_store(place)
    for _ in range(TRIES):
        try:
            entries = committed(store, store.entries())
            entries = {name: entry for name, entry in entries.items() if not is_ours(name)}
            if not entries:
                raise SetClipError(f"{place.shown}: no such file or folder", fix=_where_to_look(place))
            return _copied(store, entries, part)
        except ChangedError as error:
            changed = error
    raise SetClipError(
        f"{place.inside(str(changed)).shown if str(changed) else place.shown}: changes while it is read",
        fix="wait until it is complete, and run the command again",
    )


def _where_to_look(place: Place) -> str:
    if place.scheme in ("http", "https"):
        return (
            "check the address. A web server does not list a folder: give the address of one file, such as a .tar or "
            ".zip of the folder, or of a DATASET, EMBEDDINGS or a RUN"
        )
    return "check the name"


def folder_of(store: Store) -> Path:
    """The folder of the cache for a place."""
    return cache_folder() / "remote" / store.place.hashed(store.identity)


def _copied(store: Store, entries: Mapping[str, Entry], part: Callable[[str], bool]) -> Path:
    place = store.place
    home = folder_of(store)
    folder = home / _state(entries)
    root = folder / place.name
    atomic.make_folder(folder)
    with writing(home), _alone(home / f"{folder.name}.lock", place):
        missing = sorted(name for name in entries if part(name) and not is_here(root / name, entries[name]))
        others = [other / place.name for other in home.iterdir() if other.is_dir() and other != folder]
        missing = [name for name in missing if not _linked(others, root, name, entries[name])]
        if missing:
            size = sum(max(entries[name].size, 0) for name in missing)
            files = "1 file" if len(missing) == 1 else f"{len(missing):,} files"
            note(f"{place.shown}: copying {files}, {size:,} bytes, to {folder}")
            fetch(store, entries, missing, lambda name: root / name if name else root)
        with suppress(OSError):
            os.utime(folder)
    _remove_unused(home, folder)
    call_by_name(root, place)
    return root


def call_by_name(root: Path, place: Place) -> None:
    """Lets messages and records call a local copy by the name of its place."""
    for path in {root, root.resolve()}:
        call(path, place.shown)
        call(visible(path), visible(place.shown))


@contextmanager
def _alone(path: Path, place: Place) -> Iterator[None]:
    """One process copies a state of a place; others wait for it, and then find the files."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        note(f"{place.shown}: another setclip process is copying it; this one waits until it is there")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _state(entries: Mapping[str, Entry]) -> str:
    """A name for what is at a place now."""
    if any(not entry.tag and not entry.modified_s for entry in entries.values()):
        return f"once-{os.getpid()}-{time.time_ns():x}"  # the server says nothing by which a change would be seen
    listed = sorted((name, entry.size, entry.tag) for name, entry in entries.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def _linked(others: Sequence[Path], root: Path, name: str, entry: Entry) -> bool:
    """Whether another state of this place, or what was written there from this machine, has the file already."""
    target = root / name
    for other in others:
        found = other / name
        if not found.is_file() or not is_here(found, entry):
            continue
        atomic.make_folder(target.parent)
        with suppress(OSError):
            if target.name.endswith(_SEALED):
                target.unlink(missing_ok=True)
                target.hardlink_to(found)
            else:
                with atomic.atomic_path(target, sync=False) as temporary:
                    shutil.copyfile(found, temporary)
                os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))
            return True
    return False


def _remove_unused(home: Path, used: Path) -> None:
    """Removes other states of this place after a day, and all states of any place after a month."""
    for folder in home.parent.glob("*/*"):
        if folder == used or folder.name == "work" or not folder.is_dir():
            continue
        with suppress(OSError, Timeout):
            unused_s = time.time() - folder.stat().st_mtime
            if unused_s > (_UNUSED_S if folder.parent == home else 30 * _UNUSED_S):
                lock = folder.with_name(f"{folder.name}.lock")
                with FileLock(lock, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
