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
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Self

from setclip_cli.errors import SetClipError
from setclip_cli.files.recognize import EMPTY_ZIP, TAR, ZIP, head_of, recognize
from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk, left_out
from setclip_cli.ingest.sources.caption_record import MAX_CAPTION_CHARS, caption_record
from setclip_cli.ingest.sources.check_image import MAX_IMAGE_BYTES
from setclip_cli.ingest.sources.image import IMAGE_SUFFIXES, image_record
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.split_folders import FolderNames
from setclip_cli.ingest.sources.streams import COMPRESSIONS, damaged, open_bytes, read_up_to

if TYPE_CHECKING:
    from collections.abc import Iterator

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2")
MAX_EXPANSION = 200
MAX_SIDECAR_BYTES = 4 * MAX_CAPTION_CHARS
_SIDECARS = (".cls", ".txt", ".json", ".caption")
_MEMBER_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, zlib.error)
_MAX_CLASS_BYTES = 256
SIDECAR = "label, caption or metadata of an image"
_HEADER_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_FREE_BYTES = 1 << 20  # the limit does not hold for a member this small


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


class ImageArchive(Reader):
    """The images of an archive, in the order of their names (.zip) or of the archive (.tar)."""

    def walk(self) -> Walk:
        names, labels, count = _survey(self.path)
        folders = FolderNames(self.path.name, names)

        def answer(item: Item) -> Record | Reject:
            name, content, _ = item
            if isinstance(content, Reject):
                return content
            if content is None:
                beside = name.lower().endswith(_SIDECARS)
                return left_out(name, SIDECAR) if beside else Reject(name, "no image suffix", bad=False)
            split, label = folders.of(name)
            return image_record(name, content, name, labels.get(_key(name)) or label, split=split)

        items = members(self.path, IMAGE_SUFFIXES, MAX_IMAGE_BYTES)
        return Walk(items, lambda item: (answer(item),), lambda: count, one_each=True)


class CaptionArchive(Reader):
    """The captions of WebDataset shards: ``.txt`` and ``.caption`` members, and the ``caption`` of ``.json`` ones."""

    def walk(self) -> Walk:
        names, _, count = _survey(self.path)
        images = {_key(name): name for name in names}
        folders = FolderNames(self.path.name, names)

        def answer(item: Item) -> Record | Reject:
            name, content, _ = item
            if isinstance(content, Reject):
                return content
            if content is None:
                return left_out(name, "no caption")
            try:
                text = content.decode()
            except UnicodeDecodeError:
                return Reject(name, "not UTF-8")
            if name.lower().endswith(".json"):
                try:
                    fields = json.loads(text)
                except (ValueError, RecursionError):
                    return Reject(name, "not JSON")
                found = fields.get("caption", fields.get("text")) if isinstance(fields, dict) else None
                if not isinstance(found, str):
                    return left_out(name, "metadata without a caption")
                text = found
            return caption_record(text, name, name, group=images.get(_key(name)), split=folders.of(name)[0])

        items = members(self.path, (".txt", ".json", ".caption"), MAX_SIDECAR_BYTES)
        return Walk(items, lambda item: (answer(item),), lambda: count)


def members(path: Path, suffixes: tuple[str, ...], max_bytes: int) -> Iterator[Item]:
    """Yields an item for each member but folders: its bytes; a Reject; or None if it has none of the suffixes.

    Raises:
        SetClipError: the file is damaged, cut short, or not an archive.
    """
    return _zip_members(path, suffixes, max_bytes) if is_zip(path) else _tar_members(path, suffixes, max_bytes)


def unsafe_name(name: str) -> str | None:
    """Why a member's name cannot be trusted, or None."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return "absolute name in the archive"
    if ".." in pure.parts:
        return "'..' in the member's name"
    return None


def _zip_members(path: Path, suffixes: tuple[str, ...], max_bytes: int) -> Iterator[Item]:
    with _opened_zip(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: (info.filename, info.header_offset)):
            name = info.filename
            if info.is_dir():
                continue
            if unsafe := unsafe_name(name):
                yield Item(name, Reject(name, unsafe))
            elif (info.external_attr >> 28) == 0xA:  # the Unix mode of a symbolic link
                yield Item(name, Reject(name, "link in the archive"))
            elif not name.lower().endswith(suffixes):
                yield Item(name, None)
            elif info.flag_bits & 1:
                yield Item(name, Reject(name, "encrypted"))
            elif info.file_size > max_bytes or (
                info.file_size > _FREE_BYTES and info.file_size > MAX_EXPANSION * max(info.compress_size, 1)
            ):
                yield Item(name, Reject(name, f"would expand to {info.file_size:,} bytes: a zip bomb?"))
            else:
                try:
                    with archive.open(info) as file:
                        content = read_up_to(file, max_bytes)
                except _MEMBER_DAMAGE as error:
                    yield Item(name, Reject(name, f"damaged in the archive: {type(error).__name__}"))
                    continue
                yield Item(
                    name,
                    Reject(name, f"over {max_bytes:,} bytes") if len(content) > max_bytes else content,
                )


def _opened_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError, OverflowError) as error:
        raise damaged(path, error) from error


def _tar_members(path: Path, suffixes: tuple[str, ...], max_bytes: int) -> Iterator[Item]:
    with open_bytes(path) as stream:
        for archive, info in _tar_infos(path, stream):
            name = info.name.removeprefix("./")
            if info.isdir():
                continue
            if unsafe := unsafe_name(name):
                yield Item(name, Reject(name, unsafe))
            elif not info.isreg():
                yield Item(name, Reject(name, "link or device in the archive"))
            elif not name.lower().endswith(suffixes):
                yield Item(name, None)
            elif info.size > max_bytes:
                yield Item(name, Reject(name, f"over {max_bytes:,} bytes"))
            else:
                file = archive.extractfile(info)
                content = read_up_to(file, max_bytes) if file is not None else b""
                if len(content) != info.size:
                    raise damaged(path, EOFError(f"{name} is cut short"))
                yield Item(name, content)


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


def _survey(path: Path) -> tuple[list[str], dict[str, str], int]:
    """The names of the images; WebDataset labels: key -> what its ``.cls`` member says; the number of members."""
    names: list[str] = []
    labels: dict[str, str] = {}
    count = 0
    for name, content, _ in members(path, (".cls",), _MAX_CLASS_BYTES):
        count += 1
        if isinstance(content, bytes):
            labels[_key(name)] = content.decode("utf-8", "replace").strip()
        elif content is None and name.lower().endswith(IMAGE_SUFFIXES):
            names.append(name)
    return names, labels, count


def _key(name: str) -> str:
    """A WebDataset key: the path up to the first dot of the file's name."""
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"
