"""Finds a name that a person wrote among the ids of rows: by the whole id, or by another spelling of it.

Names are compared in steps, from the strictest to the freest, and the first step that finds something decides. If it
finds several rows, the name is ambiguous, and means none of them.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from setclip_cli.ingest.sources.split_folders import split_of_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TRIED = "the whole id, the end of its path, the file name; also without suffix, in any case and in any Unicode form"
_WHOLE = "the whole id"
_BY_FOLDERS = ("another spelling of the id", "the end of the path", "the end of the path", "the file name")
_SUFFIX = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{1,4}$")  # that of a format; not the version of NP_000001.2
_VERSION = re.compile(r"(?:\.\d+|-\d+)$")
_DRIVE = re.compile(r"^[A-Za-z]:/")


class Name(NamedTuple):
    """One thing that a name can mean."""

    id: str
    source: str = ""  # the path of its source, of which the id is the continuation
    also: str | None = None  # its id before that was made longer


class Found(NamedTuple):
    """What one name was found to mean."""

    names: tuple[Name, ...]  # one; or several, if it is ambiguous
    step: str  # how
    strictness: int = 0  # 0 is the strictest step

    @property
    def only(self) -> Name | None:
        return self.names[0] if len(self.names) == 1 else None

    def in_words(self) -> str:
        """Some of the names, for a message; with the path of its source where the ids alone would be the same."""
        alike = len({name.id for name in self.names}) < len(self.names)
        shown = [f"{name.source}/{name.id}" if alike and name.source else name.id for name in self.names]
        return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")


def find(wanted: Iterable[str], names: Callable[[], Iterable[Name]]) -> dict[str, Found]:
    """What each of ``wanted`` means; what means nothing is left out.

    Memory grows with ``wanted`` and not with the names.

    Args:
        wanted: What a person wrote.
        names: Gives a new pass over all that can be meant; there are two passes at most.
    """
    left = set(wanted)
    found: dict[str, list[Name]] = {}
    for name in names():
        if name.id in left:
            found.setdefault(name.id, []).append(name)
        if name.also in left and name.also != name.id:
            found.setdefault(str(name.also), []).append(name)
    results = {text: Found(tuple(dict.fromkeys(meant)), _WHOLE) for text, meant in found.items()}
    left -= results.keys()
    return {**results, **_find_by_spelling(left, names)} if left else results


def suggestion(wanted: str, names: Iterable[Name]) -> str | None:
    """An id that differs from ``wanted`` by a version or an isoform alone: to be offered, never to be taken."""
    plain = {wanted, _VERSION.sub("", wanted)}
    near = (name.id for name in names if name.id in plain or _VERSION.sub("", name.id) in plain)
    return next((identifier for identifier in near if identifier != wanted), None)


class _Path(NamedTuple):
    """A name as it is compared: its folders and its last part."""

    folders: tuple[str, ...]
    last: str

    def folded(self) -> _Path:
        return _Path(tuple(folder.casefold() for folder in self.folders), self.last.casefold())

    def without_suffix(self) -> _Path:
        return self._replace(last=_SUFFIX.sub("", self.last))

    def is_end_of(self, other: _Path) -> bool:
        count = len(self.folders)
        return not count or other.folders[-count:] == self.folders


_CHANGES: tuple[tuple[Callable[[_Path], _Path], str | None], ...] = (
    (lambda path: path, None),
    (_Path.without_suffix, "the file name without its suffix"),
    (_Path.folded, "upper and lower case taken as one"),
    (lambda path: path.folded().without_suffix(), "upper and lower case taken as one, without the suffix"),
)


def _path(text: str) -> _Path:
    cleaned = unicodedata.normalize("NFC", unquote(text) if "%" in text else text).strip().replace("\\", "/")
    parts = [part for part in _DRIVE.sub("", cleaned).split("/") if part not in ("", ".")]
    return _Path(tuple(parts[:-1]), parts[-1] if parts else "")


def _loosest(text: str) -> str:
    """What two names must have in common at the least."""
    if text.isascii() and "%" not in text and "\\" not in text:  # quick, because this is asked of every row
        last = text.rpartition("/")[2].strip().casefold()
    else:
        last = _path(text).last.casefold()
    return _SUFFIX.sub("", last)


class _Candidate(NamedTuple):
    name: Name
    plain: _Path  # its id
    whole: _Path  # its id after the path of its source


def _find_by_spelling(wanted: set[str], names: Callable[[], Iterable[Name]]) -> dict[str, Found]:
    loose: dict[str, list[str]] = {}
    for text in sorted(wanted):
        loose.setdefault(_loosest(text), []).append(text)
    loose.pop("", None)
    near: dict[str, list[_Candidate]] = {}
    known_folders = set()  # the folders that things lie in
    for name in names():
        known_folders.add(_folder_of(name))
        for identifier in {name.id, name.also or name.id}:
            for text in loose.get(_loosest(identifier), ()):
                plain = _path(identifier)
                above = _above(name.source, plain)
                near.setdefault(text, []).append(_Candidate(name, plain, _Path((*above, *plain.folders), plain.last)))
    wanted_folders = {folder for text in wanted for folder in _path(text).folders[-1:]}
    results = {}
    for text, candidates in near.items():
        path = _path(text)
        usable = [
            (rank, each)
            for each in candidates
            if (rank := _agreement(path.folded(), each)) < 2
            or not _contradict(path, each, wanted_folders, known_folders)
        ]
        if found := _strictest(path, [each for _, each in usable]):
            results[text] = found
    return results


def _above(source: str, plain: _Path) -> tuple[str, ...]:
    """The folders of which an id is the continuation: the source, or its folder if the id names the file itself."""
    if not source:
        return ()
    whole = _path(source)
    if not plain.folders and (plain.last == whole.last or plain.last.startswith((f"{whole.last}:", f"{whole.last}#"))):
        return whole.folders
    return (*whole.folders, whole.last)


def _strictest(path: _Path, candidates: list[_Candidate]) -> Found | None:
    """The candidates of the first step that has any; steps at which the folders agree come before all others."""
    found: dict[int, dict[Name, None]] = {}
    for place, (change, _) in enumerate(_CHANGES):
        wanted = change(path)
        for each in candidates:
            changed = each._replace(plain=change(each.plain), whole=change(each.whole))
            if changed.plain.last == wanted.last:
                agreement = _agreement(wanted, changed)
                found.setdefault(4 * place + agreement + (16 if agreement == 3 else 0), {})[each.name] = None
    if not found:
        return None
    best = min(found)
    place, agreement = divmod(best % 16, 4)
    return Found(tuple(found[best]), _CHANGES[place][1] or _BY_FOLDERS[agreement], 1 + best)


def _agreement(wanted: _Path, candidate: _Candidate) -> int:
    """How well the folders agree: 0 all; 1 those that are wanted; 2 those of the id; 3 not."""
    if wanted.folders == candidate.plain.folders:
        return 0
    if wanted.is_end_of(candidate.whole):
        return 1
    return 2 if candidate.plain.is_end_of(wanted) else 3


def _contradict(path: _Path, candidate: _Candidate, wanted_folders: set[str], known_folders: set[str]) -> bool:
    """Whether the folders say that these are two things, though the file names are alike.

    They do if they name two splits, or if both lie in folders and one of these folders is known on the other side too:
    ``forest/1.jpg`` is not ``river/1.jpg``, but ``JPEGImages/1.jpg`` can be ``images/1.jpg``.
    """
    own = candidate.whole.folders[len(candidate.whole.folders) - len(candidate.plain.folders) - 1 :]
    mine, other = (next(filter(None, map(split_of_folder, folders)), None) for folders in (path.folders, own))
    if mine and other and mine != other:
        return True
    if not path.folders or not own or path.folders[-1] == own[-1]:
        return False
    return own[-1] in wanted_folders or path.folders[-1] in known_folders


def _folder_of(name: Name) -> str:
    folder = name.id.rpartition("/")[0] or name.source
    return folder.rpartition("/")[2]
