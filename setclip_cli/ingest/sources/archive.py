"""Images and captions in .zip and .tar archives, read in place: nothing is unpacked to disk.

These members are rejects: those with an absolute name or a ``..`` in their path, links, devices, encrypted members, and
those that would grow more than ``MAX_EXPANSION``-fold (a zip bomb) or over the size limit. Folders give labels as they
do on disk. WebDataset shards are tars whose members share a key up to the first dot: ``.cls`` gives
an image's label, ``.txt`` and the ``caption`` in ``.json`` give captions whose group is the image's member name.
"""

from __future__ import annotations

import json
import tarfile
import zipfile
import zlib
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self

from setclip_cli.ingest.sources.base import OneFile, Record, Reject
from setclip_cli.ingest.sources.caption import MAX_CAPTION_CHARS, caption_record
from setclip_cli.ingest.sources.check_image import MAX_IMAGE_BYTES
from setclip_cli.ingest.sources.image import IMAGE_SUFFIXES, folder_label, image_record, ordered_map
from setclip_cli.ingest.sources.streams import COMPRESSIONS, damaged, open_bytes, read_up_to

if TYPE_CHECKING:
    from collections.abc import Iterator

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2")
MAX_EXPANSION = 200
MAX_SIDECAR_BYTES = 4 * MAX_CAPTION_CHARS
_SIDECARS = (".cls", ".txt", ".json", ".caption")
_MEMBER_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, zlib.error)
_MAX_CLASS_BYTES = 256
_HEADER_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_FREE_BYTES = 1 << 20  # the limit does not hold for a member this small


class Member(NamedTuple):
    name: str
    content: bytes


def is_archive(path: Path) -> bool:
    """Whether a file name says zip or tar; a tar may be compressed."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return bool(suffixes) and (
        suffixes[-1] in ARCHIVE_SUFFIXES or (suffixes[-1] in COMPRESSIONS and suffixes[0] == ".tar")
    )


class ImageArchive(OneFile):
    """The images of an archive, in the order of their names (.zip) or of the archive (.tar)."""

    def records(self, start: int, workers: int) -> Iterator[Record | Reject]:
        names, labels = _survey(self.path)
        labelled = len({name.rpartition("/")[0] for name in names}) > 1

        def check(member: Member | Reject) -> Record | Reject:
            if isinstance(member, Reject):
                return member
            label = labels.get(_key(member.name)) or (folder_label(member.name) if labelled else None)
            return image_record(member.name, member.content, member.name, label)

        yield from ordered_map(check, islice(self._members(), start, None), workers)

    def _members(self) -> Iterator[Member | Reject]:
        for member in members(self.path, IMAGE_SUFFIXES, MAX_IMAGE_BYTES):
            if isinstance(member, Member) or not member.reason.startswith("no member of"):
                yield member
            elif not member.location.lower().endswith(_SIDECARS):
                yield Reject(member.location, "no image suffix", bad=False)


class CaptionArchive(OneFile):
    """The captions of WebDataset shards: ``.txt`` and ``.caption`` members, and the ``caption`` of ``.json`` ones."""

    def _records(self) -> Iterator[Record | Reject]:
        images = {_key(name): name for name in _survey(self.path)[0]}
        for member in members(self.path, (".txt", ".json", ".caption"), MAX_SIDECAR_BYTES):
            if isinstance(member, Reject):
                if not member.reason.startswith("no member of"):
                    yield member
                continue
            group = images.get(_key(member.name))
            try:
                text = member.content.decode()
            except UnicodeDecodeError:
                yield Reject(member.name, "not UTF-8")
                continue
            if member.name.lower().endswith(".json"):
                try:
                    fields = json.loads(text)
                except (ValueError, RecursionError):
                    yield Reject(member.name, "not JSON")
                    continue
                found = fields.get("caption", fields.get("text")) if isinstance(fields, dict) else None
                if not isinstance(found, str):
                    continue  # metadata without a caption
                text = found
            yield caption_record(text, member.name, member.name, group=group)


def members(path: Path, suffixes: tuple[str, ...], max_bytes: int) -> Iterator[Member | Reject]:
    """Yields the members with one of the suffixes, and for every other file a Reject ``no member of ...``.

    Raises:
        SetClipError: the file is damaged, cut short, or not an archive.
    """
    return (
        _zip_members(path, suffixes, max_bytes)
        if path.suffix.lower() == ".zip"
        else _tar_members(path, suffixes, max_bytes)
    )


def unsafe_name(name: str) -> str | None:
    """Why a member's name cannot be trusted, or None."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return "absolute name in the archive"
    if ".." in pure.parts:
        return "'..' in the member's name"
    return None


def _zip_members(path: Path, suffixes: tuple[str, ...], max_bytes: int) -> Iterator[Member | Reject]:
    with _opened_zip(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: (info.filename, info.header_offset)):
            name = info.filename
            if info.is_dir():
                continue
            if unsafe := unsafe_name(name):
                yield Reject(name, unsafe)
            elif (info.external_attr >> 28) == 0xA:  # the Unix mode of a symbolic link
                yield Reject(name, "link in the archive")
            elif not name.lower().endswith(suffixes):
                yield Reject(name, f"no member of {suffixes[0]}", bad=False)
            elif info.flag_bits & 1:
                yield Reject(name, "encrypted")
            elif info.file_size > max_bytes or (
                info.file_size > _FREE_BYTES and info.file_size > MAX_EXPANSION * max(info.compress_size, 1)
            ):
                yield Reject(name, f"would expand to {info.file_size:,} bytes: a zip bomb?")
            else:
                try:
                    with archive.open(info) as file:
                        content = read_up_to(file, max_bytes)
                except _MEMBER_DAMAGE as error:
                    yield Reject(name, f"damaged in the archive: {type(error).__name__}")
                    continue
                yield Reject(name, f"over {max_bytes:,} bytes") if len(content) > max_bytes else Member(name, content)


def _opened_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError, OverflowError) as error:
        raise damaged(path, error) from error


def _tar_members(path: Path, suffixes: tuple[str, ...], max_bytes: int) -> Iterator[Member | Reject]:
    with open_bytes(path) as stream:
        for archive, info in _tar_infos(path, stream):
            name = info.name.removeprefix("./")
            if info.isdir():
                continue
            if unsafe := unsafe_name(name):
                yield Reject(name, unsafe)
            elif not info.isreg():
                yield Reject(name, "link or device in the archive")
            elif not name.lower().endswith(suffixes):
                yield Reject(name, f"no member of {suffixes[0]}", bad=False)
            elif info.size > max_bytes:
                yield Reject(name, f"over {max_bytes:,} bytes")
            else:
                file = archive.extractfile(info)
                content = read_up_to(file, max_bytes) if file is not None else b""
                if len(content) != info.size:
                    raise damaged(path, EOFError(f"{name} is cut short"))
                yield Member(name, content)


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


def _survey(path: Path) -> tuple[list[str], dict[str, str]]:
    """The names of the images, and WebDataset labels: key -> what its ``.cls`` member says."""
    names: list[str] = []
    labels: dict[str, str] = {}
    for member in members(path, (".cls",), _MAX_CLASS_BYTES):
        if isinstance(member, Member):
            labels[_key(member.name)] = member.content.decode("utf-8", "replace").strip()
        elif member.location.lower().endswith(IMAGE_SUFFIXES):
            names.append(member.location)
    return names, labels


def _key(name: str) -> str:
    """A WebDataset key: the path up to the first dot of the file's name."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"
