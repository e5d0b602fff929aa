"""The members of .zip and .tar archives, read in place: nothing is unpacked to disk.

These members are rejects: those with an absolute name or a ``..`` in their path, devices, links that lead out of the
archive or nowhere, encrypted members, and those that would grow more than ``MAX_EXPANSION``-fold (a zip bomb) or over
the size limit. A link to a file of the same archive is read as that file.
"""

from __future__ import annotations

import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from setclip_cli.errors import SetClipError
from setclip_cli.files.recognize import EMPTY_ZIP, HEAD_BYTES, TAR, ZIP, head_of, recognize
from setclip_cli.ingest.sources.base import Item, Reject, left_out
from setclip_cli.ingest.sources.streams import COMPRESSIONS, damaged, open_bytes, read_up_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2")
MAX_EXPANSION = 200
MAX_LINK_EXPANSION = 10  # all links together may give this many times the bytes of the archive
HIDDEN = "hidden file of another system"
_MAX_LINK_CHARS = 4096
_MAX_LINK_STEPS = 16
_MEMBER_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, zlib.error)
_HEADER_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_FREE_BYTES = 1 << 20  # the limits do not hold for a member this small


def is_archive(path: Path) -> bool:
    """Whether a file name says zip or tar; a tar may be compressed."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return bool(suffixes) and (
        suffixes[-1] in ARCHIVE_SUFFIXES or (suffixes[-1] in COMPRESSIONS and suffixes[0] == ".tar")
    )


def is_zip(path: Path) -> bool:
    """Whether a file is a zip: its first bytes say so, or its name does and they are not those of a tar."""
    try:
        head = head_of(path)
    except OSError:
        head = b""  # opening it says what is wrong
    other = recognize(head)
    if other is not None and other not in (ZIP, EMPTY_ZIP, TAR) and path.suffix.lower() == ".zip":
        raise SetClipError(f"{path}: is {other.what}", fix=other.fix)
    return other in (ZIP, EMPTY_ZIP) or (other is not TAR and path.suffix.lower() == ".zip")


class Archive:
    """An archive whose members are known by name from a first pass over it.

    Args:
        path: The file.
        small: Suffixes of members that the first pass reads.
        max_small: They have at most this many bytes.
        parse: What is kept of such a member, from its name, and its bytes or the reason why they cannot be read.
        known: Suffixes of members whose names say what they are.
        look: What is kept of another member, from the first bytes and the name.

    Attributes:
        names: The members that can be read, in order: files, and links to files of the archive.
        small: What is kept of those that the first pass read; not where it is None.
        heads: What is kept of the members whose names do not say what they are; a Reject if one cannot be read.
        count: All members but folders.

    Raises:
        SetClipError: the file is damaged, cut short, or not an archive.
    """

    def __init__(
        self,
        path: Path,
        small: tuple[str, ...] = (),
        max_small: int = 0,
        parse: Callable[[str, bytes | Reject], Any] = lambda name, content: None,
        *,
        known: tuple[str, ...] = ("",),
        look: Callable[[bytes, str], Any] = lambda head, name: None,
    ) -> None:
        self._path, self._zip, self._parse, self._known, self._look = path, is_zip(path), parse, known, look
        self.names: list[str] = []
        self.small: dict[str, Any] = {}
        self.heads: dict[str, Any] = {}
        self.count = 0
        links: dict[str, str] = {}
        (self._survey_zip if self._zip else self._survey_tar)(small, max_small, links)
        self._targets = _resolved(links, Counter(self.names))
        self.names += self._targets
        for kept in (self.small, self.heads):
            kept.update({link: kept[to] for link, to in self._targets.items() if to in kept})

    def members(self, wanted: Callable[[str], bool], max_bytes: int) -> Iterator[Item]:
        """Yields an item for each member but folders: its bytes; a Reject; or None if its name is not wanted.

        A zip comes in the order of the names. A tar comes in its own order, and links to files last.
        """
        return (self._zip_members if self._zip else self._tar_members)(wanted, max_bytes)

    def _keep_head(self, name: str, content: bytes | Reject) -> None:
        self.heads[name] = content if isinstance(content, Reject) else self._look(content, name)

    def _keep(self, name: str, content: bytes | Reject) -> None:
        kept = self._parse(name, content)
        if kept is not None:
            self.small[name] = kept

    def _survey_zip(self, small: tuple[str, ...], max_small: int, links: dict[str, str]) -> None:
        with _opened_zip(self._path) as archive:
            for info in _in_order(archive):
                self.count += 1
                name = info.filename
                if _never_read(name):
                    continue
                if _is_link(info):
                    target = _zip_content(archive, info, name, _MAX_LINK_CHARS)
                    if isinstance(target, bytes):
                        links[name] = _joined(name, target.decode("utf-8", "replace"))
                    continue
                self.names.append(name)
                if name.lower().endswith(small):
                    self._keep(name, _zip_content(archive, info, name, max_small))
                elif not name.lower().endswith(self._known):
                    self._keep_head(name, _zip_head(archive, info, name))

    def _survey_tar(self, small: tuple[str, ...], max_small: int, links: dict[str, str]) -> None:
        with open_bytes(self._path) as stream:
            for archive, info in _tar_infos(self._path, stream):
                if info.isdir():
                    continue
                self.count += 1
                name = info.name.removeprefix("./")
                if _never_read(name):
                    continue
                if info.issym():
                    links[name] = _joined(name, info.linkname)
                elif info.islnk():
                    links[name] = info.linkname.removeprefix("./")
                elif info.isreg():
                    self.names.append(name)
                    if name.lower().endswith(small):
                        self._keep(name, _tar_content(self._path, archive, info, name, max_small))
                    elif not name.lower().endswith(self._known):
                        self._keep_head(name, _tar_head(self._path, archive, info))

    def _zip_members(self, wanted: Callable[[str], bool], max_bytes: int) -> Iterator[Item]:
        budget = _LinkBudget(self._path)
        with _opened_zip(self._path) as archive:
            for info in _in_order(archive):
                name = info.filename
                if reject := _never_read(name):
                    yield Item(name, reject)
                elif _is_link(info) and name not in self._targets:
                    yield Item(name, Reject(name, "link in the archive"))
                elif not wanted(name):
                    yield Item(name, None)
                elif _is_link(info):
                    target = archive.getinfo(self._targets[name])
                    yield Item(
                        name, budget.refusal(name, target.file_size) or _zip_content(archive, target, name, max_bytes)
                    )
                else:
                    yield Item(name, _zip_content(archive, info, name, max_bytes))

    def _tar_members(self, wanted: Callable[[str], bool], max_bytes: int) -> Iterator[Item]:
        links: dict[str, list[str]] = {}  # file -> the links to it that are read
        with open_bytes(self._path) as stream:
            for archive, info in _tar_infos(self._path, stream):
                name = info.name.removeprefix("./")
                if info.isdir():
                    continue
                if reject := _never_read(name):
                    yield Item(name, reject)
                elif not info.isreg() and name not in self._targets:
                    yield Item(name, Reject(name, "link or device in the archive"))
                elif not wanted(name):
                    yield Item(name, None)
                elif not info.isreg():
                    links.setdefault(self._targets[name], []).append(name)
                else:
                    yield Item(name, _tar_content(self._path, archive, info, name, max_bytes))
        if links:
            yield from self._linked(links, max_bytes)

    def _linked(self, links: Mapping[str, list[str]], max_bytes: int) -> Iterator[Item]:
        """The links of a tar, in one more pass: their files may come before or after them."""
        budget = _LinkBudget(self._path)
        with open_bytes(self._path) as stream:
            for archive, info in _tar_infos(self._path, stream):
                of_file = links.get(info.name.removeprefix("./"), []) if info.isreg() else []
                content = _tar_content(self._path, archive, info, "", max_bytes) if of_file else b""
                for name in of_file:
                    found = content._replace(location=name) if isinstance(content, Reject) else content
                    yield Item(name, budget.refusal(name, info.size) or found)


class _LinkBudget:
    """Refuses links once they have given so many bytes that they must be an attack."""

    def __init__(self, path: Path) -> None:
        self._left = max(_FREE_BYTES, MAX_LINK_EXPANSION * path.stat().st_size)

    def refusal(self, name: str, size: int) -> Reject | None:
        self._left -= size
        return Reject(name, "link in the archive, which has too many links to large files") if self._left < 0 else None


def _resolved(links: Mapping[str, str], files: Mapping[str, int]) -> dict[str, str]:
    """Link -> file of the archive, for the links that lead to one, and to one only."""
    targets = {}
    for link, first in links.items():
        target, steps = first, 0
        while target in links and target not in files and steps < _MAX_LINK_STEPS:
            target, steps = links[target], steps + 1
        if files.get(target) == 1 and link not in files and unsafe_name(target) is None:
            targets[link] = target
    return targets


def _joined(name: str, target: str) -> str:
    """Where a symbolic link leads, as the name of a member."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _never_read(name: str) -> Reject | None:
    """The answer to a member whose name says that it is not read."""
    if unsafe := unsafe_name(name):
        return Reject(name, unsafe)
    parts = PurePosixPath(name).parts
    if parts and (parts[0] == "__MACOSX" or parts[-1].startswith("._") or parts[-1] == ".DS_Store"):
        return left_out(name, HIDDEN)
    return None


def unsafe_name(name: str) -> str | None:
    """Why a member's name cannot be trusted, or None."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return "absolute name in the archive"
    if ".." in pure.parts:
        return "'..' in the member's name"
    return None


def _in_order(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    infos = (info for info in archive.infolist() if not info.is_dir())
    return sorted(infos, key=lambda info: (info.filename, info.header_offset))


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


def _zip_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, max_bytes: int) -> bytes | Reject:
    if info.flag_bits & 1:
        return Reject(name, "encrypted")
    if info.file_size > _FREE_BYTES and info.file_size > MAX_EXPANSION * max(info.compress_size, 1):
        return Reject(name, f"would expand to {info.file_size:,} bytes: a zip bomb?")
    if info.file_size > max_bytes:
        return Reject(name, f"over {max_bytes:,} bytes")
    content = _zip_bytes(archive, info, name, max_bytes)
    return (
        content
        if isinstance(content, Reject) or len(content) <= max_bytes
        else Reject(name, f"over {max_bytes:,} bytes")
    )


def _zip_head(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes | Reject:
    if info.flag_bits & 1:
        return Reject(name, "encrypted")
    head = _zip_bytes(archive, info, name, HEAD_BYTES)
    return head if isinstance(head, Reject) else head[:HEAD_BYTES]


def _zip_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, max_bytes: int) -> bytes | Reject:
    """At most one byte more than ``max_bytes``."""
    try:
        with archive.open(info) as file:
            return read_up_to(file, max_bytes)
    except _MEMBER_DAMAGE as error:
        return Reject(name, f"damaged in the archive: {type(error).__name__}")


def _opened_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except UnicodeDecodeError as error:
        found = error.object.decode("utf-8", "surrogateescape")
        raise SetClipError(
            f"{path}: a member's name is not UTF-8, although the archive says so: {found!r}",
            fix="unpack it into a folder and give that",
        ) from error
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError, OverflowError) as error:
        raise damaged(path, error) from error


def _tar_content(
    path: Path, archive: tarfile.TarFile, info: tarfile.TarInfo, name: str, max_bytes: int
) -> bytes | Reject:
    if info.size > max_bytes:
        return Reject(name, f"over {max_bytes:,} bytes")
    content = _tar_head(path, archive, info, max_bytes)
    if len(content) != info.size:
        raise damaged(path, EOFError(f"{name} is cut short"))
    return content


def _tar_head(path: Path, archive: tarfile.TarFile, info: tarfile.TarInfo, max_bytes: int = HEAD_BYTES) -> bytes:
    try:
        file = archive.extractfile(info)
        content = read_up_to(file, max_bytes) if file is not None else b""
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise damaged(path, error) from error
    return content[:max_bytes]


class _BoundedInfo(tarfile.TarInfo):
    """Refuses headers so large that they would fill the memory, and archives without an end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if not buf:  # tarfile accepts a file that is cut between two members
            raise tarfile.ReadError("no end-of-archive marker")
        return super().frombuf(buf, encoding, errors)

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADER_TYPES and self.size > _FREE_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


def _tar_infos(path: Path, stream: BinaryIO) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_BoundedInfo) as archive:
            while (info := archive.next()) is not None:
                yield archive, info
                archive.members = []  # type: ignore[attr-defined]  # tarfile would remember every member
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise damaged(path, error) from error
