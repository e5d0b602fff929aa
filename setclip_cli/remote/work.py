"""What is written on other machines: it is made in a folder of the cache, and sent when it is whole.

    $SETCLIP_CACHE/remote/<place>/work/NAME      the folder that the command writes
    $SETCLIP_CACHE/remote/<place>/work.json      which files of it are at the place already, as they are

The folder begins as what is at the place. If the command fails or is stopped, nothing is sent and the folder stays: the
same command goes on from it, unless somebody else has written to the place meanwhile.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from setclip_cli.console import note
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.files.leftovers import is_temporary
from setclip_cli.files.lock import LOCK_NAME
from setclip_cli.files.write_errors import InUseError, WriteError, writing
from setclip_cli.remote.claim import Claim, claimed
from setclip_cli.remote.commit import BEGUN, COMMIT, OURS, Commit, is_ours, read_commit
from setclip_cli.remote.copies import call_by_name, folder_of
from setclip_cli.remote.errors import TRIES, ChangedError
from setclip_cli.remote.hub import not_to_a_hub
from setclip_cli.remote.place import Place
from setclip_cli.remote.store import Entry, Store
from setclip_cli.remote.stores import open_store
from setclip_cli.remote.transfer import OTHER_DISK, PARALLEL_SENT, bar, each, fetch, has_tag, is_here, is_part

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# The files of our folders that are written last: who finds one finds a whole folder.
LAST = ("dataset.json", "embeddings.json", "config.json", "report.json", "report.html", "matches.json", "study.json")
MARKS = (*LAST, ".finished", "recipe.toml", "report.md", "baselines", "inspect.json", "check_pairs.csv", "suggest.csv")
_NEVER_SENT = (".ingest", OURS)
_open: dict[Path, _Work] = {}


@contextmanager
def written(place: Place) -> Iterator[Path]:
    """Yields the local folder in which a command writes, and sends it to the place after the block.

    Raises:
        SetClipError: the place cannot be read or written; it holds other things; another command writes there.
    """
    if place.scheme == "hub":
        raise not_to_a_hub(place)
    if place.scheme in ("http", "https", "hf"):
        raise SetClipError(
            f"{argument('out')} {place.shown}: setclip does not write to {place.scheme}://",
            fix="write to this machine, s3:// or gs://",
        )
    store = open_store(place)
    home = folder_of(store)
    if int(os.environ.get("RANK") or 0):  # of a group that torchrun started: its first process writes and sends
        call_by_name(home / "work" / place.name, place)
        yield home / "work" / place.name
        return
    atomic.make_folder(home)
    lock = FileLock(home / "work.lock", timeout=0)
    with writing(home):
        try:
            lock.acquire()
        except Timeout as error:
            raise InUseError(
                f"{place.shown}: another setclip process of this machine is writing here",
                fix=f"wait until it ends, or choose another {argument('out')}",
            ) from error
    try:
        with claimed(store) as claim:
            work = _Work(store, home, claim)
            work.begin()
            _open[work.root] = work
            try:
                yield work.root
            except WriteError as error:
                raise error.with_fix(OTHER_DISK) from error
            except SetClipError as error:
                raise _not_sent(error, work) from error
            finally:
                _open.pop(work.root, None)
            work.send()
    finally:
        lock.release()


def send_finished(folder: Path, names: Sequence[str]) -> None:
    """Sends files of an output folder that are whole before the command ends; nothing for a folder of this machine.

    Only files that no reader sees yet are sent: those that are new there.
    """
    if (work := _open.get(folder)) is not None:
        work.send_early(names)


def _not_sent(error: SetClipError, work: _Work) -> SetClipError:
    """The same error; it may name a file of the output folder, which is still here only."""
    if work.store.place.shown not in error.problem or not any(work.root.rglob("*")):
        return error
    problem, fix = error.marked()
    more = f"nothing was sent to {work.store.place.shown}; its files are below {work.root.parent}"
    return SetClipError(problem, fix=f"{fix}; {more}", exit_code=error.exit_code)


class _Work:
    """A folder of the cache that becomes the folder at a place."""

    def __init__(self, store: Store, home: Path, claim: Claim) -> None:
        self.store, self._claim = store, claim
        self.root = home / "work" / store.place.name
        self._record = home / "work.json"
        self._there: dict[str, Entry] = {}  # what is at the place
        self._known = self._read_record()
        self._begun = False  # whether the place is marked as one in which the first command has not finished
        self._guard = threading.Lock()
        self._written_s = 0.0

    def begin(self) -> None:
        """Makes the folder what is at the place, or keeps what an earlier command has begun on top of it."""
        place = self.store.place
        for _ in range(TRIES):
            try:
                entries = self.store.entries()
                if "" in entries:
                    raise SetClipError(f"{place.shown}: is a file", fix=f"choose another {argument('out')}")
                if (begun := read_commit(self.store, entries)) is not None:
                    self._finish(begun)
                    entries = self.store.entries()
                for name in entries:
                    if name.startswith(f"{OURS}/new-"):  # of a command that was stopped before its commit.json
                        self.store.remove(name)
                self._there = {name: entry for name, entry in entries.items() if not is_ours(name)}
                self._begun = BEGUN in entries
                self._refuse_foreign()
                self._fill()
                break
            except ChangedError:
                continue
        else:
            raise SetClipError(f"{place.shown}: changes while it is read", fix="wait until it is complete")
        call_by_name(self.root, place)

    def _refuse_foreign(self) -> None:
        tops = {name.partition("/")[0] for name in self._there}
        if tops and not tops & set(MARKS) and not self._begun:
            shown = f"{', '.join(map(repr, sorted(tops)[:3]))}{', ...' if len(tops) > 3 else ''}"
            raise SetClipError(
                f"{self.store.place.shown}: exists but is not a folder that setclip wrote (it holds {shown})",
                fix=f"choose another {argument('out')}, or remove it yourself; nothing was changed",
            )

    def _fill(self) -> None:
        place, there = self.store.place, self._there
        self._adopt()
        known = {name: one for name, one in self._known.items() if one["there"] is not None}
        states = {name: entry.state for name, entry in there.items()}
        if self.root.is_dir() and states == {name: one["there"] for name, one in known.items()}:
            return  # nobody has written there since: what is here is as new, or newer
        if known and self._unsent(known):
            note(f"note: {place.shown}: has changed since this machine began to write there; that beginning is left")
        atomic.make_folder(self.root)
        if self._begun and not self._indexed() and not any(name.startswith(".finished/") for name in there):
            there = {}  # another machine has begun, and only it could go on from these files
        missing = []
        for name, entry in there.items():
            path = self.root / name
            same = known.get(name, {}).get("there") == entry.state and known[name]["here"] == _stamp(path)
            if not same and not is_here(path, entry):
                missing.append(name)
        with writing(self.root):
            for path in sorted(self.root.rglob("*"), reverse=True):
                if path.is_dir() and not path.is_symlink():
                    with suppress(OSError):
                        path.rmdir()
                elif path.relative_to(self.root).as_posix() not in there:
                    path.unlink()
        if missing:
            size = sum(entry.size for entry in map(there.__getitem__, missing))
            note(f"{place.shown}: copying {_files(len(missing))}, {size:,} bytes, to {self.root.parent}")
            for name in missing:
                with writing(self.root):
                    (self.root / name).unlink(missing_ok=True)
            fetch(self.store, there, missing, lambda name: self.root / name)
        self._known = {name: self._pair(name) for name in there}
        self._save_record()

    def _indexed(self) -> bool:
        """Whether a command has finished at the place: what is there has readers."""
        return any(name in self._there for name in LAST)

    def _adopt(self) -> None:
        """Takes files for sent that were sent when this machine was stopped, before it could record that."""
        for name, entry in self._there.items():
            known, stamp = self._known.get(name, {}), _stamp(self.root / name)
            if known.get("there") == entry.state or stamp is None or known.get("sending") != stamp:
                continue
            if stamp[0] == entry.size and has_tag(self.root / name, entry):
                self._known[name] = {"there": entry.state, "here": stamp}

    def _unsent(self, known: Mapping[str, dict[str, Any]]) -> bool:
        here = self._here()
        return set(here) != set(known) or any(known[name]["here"] != stamp for name, stamp in here.items())

    def _here(self) -> dict[str, list[int]]:
        """The files to send, with what shows a change of each."""
        found = {}
        for folder, inside, files in os.walk(self.root):
            relative = Path(folder).relative_to(self.root)
            inside[:] = [name for name in inside if not is_temporary(name) and name not in _NEVER_SENT]
            for name in files:
                if name != LOCK_NAME and not is_temporary(name) and not is_part(name):
                    stamp = _stamp(Path(folder) / name)
                    if stamp is not None:
                        found[(relative / name).as_posix()] = stamp
        return found

    def send_early(self, names: Sequence[str]) -> None:
        """Sends whole files whose names are not there yet, or that no index there lists."""
        names = [name for name in names if name not in self._there or not self._indexed()]
        for name in names:
            self._send_all([name])

    def send(self) -> None:
        """Makes the place what is here."""
        known, here = dict(self._known), self._here()
        changed = [name for name, stamp in here.items() if name not in known or known[name]["here"] != stamp]
        gone = [name for name in self._there if name not in here]
        unread = [name for name in gone if name.startswith(".finished/") or not self._indexed()]
        removed = [name for name in gone if name not in unread]
        last = [name for name in LAST if name in changed]
        others = [name for name in changed if name not in LAST]
        new = [name for name in others if name not in self._there or not self._indexed()]
        replaced = [name for name in others if name not in new]
        if not changed and not gone:
            return
        self._send_all(new)
        self._claim.require()
        if not replaced and not removed and len([name for name in last if name in self._there]) < 2:
            self._send_all(last, together=False)
        else:
            self._replace([*replaced, *last], removed)
        for name in unread:
            self.store.remove(name)
            self._there.pop(name)
        if self._begun:
            self.store.remove(BEGUN)
            self._begun = False
        self._write_record()
        size = sum((self.root / name).stat().st_size for name in changed)
        note(f"{self.store.place.shown}: {_files(len(changed))}, {size:,} bytes, were sent there")

    def _send_all(self, names: Sequence[str], *, together: bool = True, at: Mapping[str, str] | None = None) -> None:
        """Sends files and records each as soon as it is there."""
        total = sum((self.root / name).stat().st_size for name in names)
        for name in names:
            before = self._there.get(name)
            here = self._known.get(name, {}).get("here")
            state = None if before is None else before.state
            self._known[name] = {"there": state, "here": here, "sending": _stamp(self.root / name)}
        self._save_record()
        if at is None and not self._begun and not self._indexed():
            self.store.send_bytes(b"", BEGUN)
            self._begun = True

        def send(name: str, stopped: threading.Event) -> None:
            path, key = self.root / name, name if at is None else at[name]
            if stopped.is_set():
                return
            size = path.stat().st_size
            self.store.send(path, key)
            entry = self.store.look(key)
            if entry is None or entry.size != size:
                raise SetClipError(
                    f"{self.store.place.inside(name).shown}: has {0 if entry is None else entry.size:,} bytes after "
                    f"{size:,} were sent",
                    fix="run the same command again",
                )
            shown.update(size)
            if at is None:
                self._note_sent(name, entry)

        with bar(total, f"send {self.store.place.name}") as shown:
            if together:
                each(send, names, PARALLEL_SENT)
            else:
                for name in names:
                    send(name, threading.Event())

    def _replace(self, names: Sequence[str], removed: Sequence[str]) -> None:
        folder = f"{OURS}/new-{secrets.token_hex(8)}"
        commit = Commit(files={name: f"{folder}/{name}" for name in names}, removed=list(removed))
        self._send_all(names, at=commit.files)
        self._claim.require()
        path = self._record.with_name("commit.json")
        atomic.write_text(path, commit.model_dump_json())
        self.store.send(path, COMMIT)
        self._finish(commit)
        for name in removed:
            self._there.pop(name, None)
        for name in names:
            if (entry := self.store.look(name)) is not None:
                self._there[name] = entry
        self._write_record()

    def _finish(self, commit: Commit) -> None:
        """Gives the new files their names, then removes all that was needed for it."""
        names = sorted(commit.files, key=lambda name: (name in LAST, name))
        for name in names:
            self.store.copy(commit.files[name], name)
        for name in commit.removed:
            self.store.remove(name)
        self.store.remove(COMMIT)
        for key in commit.files.values():
            self.store.remove(key)

    def _read_record(self) -> dict[str, dict[str, Any]]:
        try:
            found: dict[str, dict[str, Any]] = json.loads(self._record.read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def _write_record(self) -> None:
        """Records which local files are at the place, as they are there."""
        self._known = {name: self._pair(name) for name in self._there}
        self._save_record()

    def _save_record(self) -> None:
        atomic.write_text(self._record, json.dumps(self._known), sync=False)

    def _pair(self, name: str) -> dict[str, Any]:
        return {"there": self._there[name].state, "here": _stamp(self.root / name)}

    def _note_sent(self, name: str, entry: Entry) -> None:
        """Records one file. The disk is written once a second at most: what it misses, `_adopt` finds."""
        with self._guard:
            self._there[name] = entry
            self._known[name] = self._pair(name)
            if time.monotonic() - self._written_s > 1:
                self._save_record()
                self._written_s = time.monotonic()


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
