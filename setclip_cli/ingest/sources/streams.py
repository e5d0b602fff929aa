"""Byte streams from plain and compressed files, cut into pieces of limited size."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, BinaryIO, cast

import pyarrow as pa

from setclip_cli.errors import SetClipError
from setclip_cli.files.recognize import EMPTY, TAR, head_of, is_text, recognize, starts_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMPRESSIONS = (".gz", ".bz2", ".zst")
_MAGICS = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".zst": b"\x28\xb5\x2f\xfd"}
_SUFFIXES = {".gz": ".gz", ".tgz": ".gz", ".bz2": ".bz2", ".tbz2": ".bz2", ".zst": ".zst"}
BLOCK_BYTES = 1 << 20
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


class _Zstandard:
    """Reads through a buffer of Arrow's own: pyarrow 26's ``read(n)`` leaks n bytes each time the stream is damaged."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        return bytes(self._stream.read_buffer(size))


def inner_suffix(path: Path) -> str:
    """The suffix of the format, in lower case and without that of a compression: ``.fasta`` for ``x.FASTA.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading; if its first bytes are those of a gzip, bzip2 or Zstandard file, it is decompressed.

    Raises:
        SetClipError: the file cannot be opened or read, is cut short, or is not what it should be (see `recognize`);
            also inside the with block, where it is read.
    """
    try:
        head = head_of(path)
        compression = _compression(path, head)
        if compression == ".gz":
            with gzip.open(path) as file:
                yield cast("BinaryIO", file)
        elif compression == ".bz2":
            with bz2.open(path) as file:
                yield cast("BinaryIO", file)
        elif compression == ".zst":
            with pa.input_stream(str(path), compression="zstd") as stream:
                yield cast("BinaryIO", _Zstandard(stream))
        else:
            with path.open("rb") as file:
                yield file
    except _DAMAGE as error:
        raise damaged(path, error) from error
    except OSError as error:
        if error.errno is None:  # how bz2 and zstd report broken streams
            raise damaged(path, error) from error
        raise SetClipError(f"{path}: {error.strerror}", fix="check the path and its permissions") from error


def _compression(path: Path, head: bytes) -> str | None:
    """How a file is compressed, whatever its name says.

    Raises:
        SetClipError: it is of a kind that cannot be read as text or tar.
    """
    named = _SUFFIXES.get(path.suffix.lower())
    found = next((name for name, magic in _MAGICS.items() if head.startswith(magic)), None)
    if found is not None and (found == named or not is_text(head)):
        return found
    other = recognize(head)
    if other is not None and (other not in (EMPTY, TAR) or named):
        although = f", although its name ends in {path.suffix}" if named else ""
        raise SetClipError(f"{path}: is {other.what}{although}", fix=other.fix)
    if named is not None:
        raise SetClipError(
            f"{path}: is not compressed, although its name ends in {path.suffix}: starts with {starts_with(head)}",
            fix=f"let its name end without {path.suffix} if this is its content; else download or copy it again",
        )
    return None


def damaged(path: Path, error: Exception) -> SetClipError:
    return SetClipError(
        f"{path}: is cut short or damaged ({error})",
        fix="download or copy it again; nothing of it was kept",
    )


def blocks(file: BinaryIO, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    while block := file.read(size):
        yield block


def read_up_to(file: IO[bytes], max_bytes: int) -> bytes:
    """Reads at most ``max_bytes`` + 1, so that a longer file shows. ``file.read(n)`` would allocate n bytes at once."""
    parts: list[bytes] = []
    left = max_bytes + 1
    while left and (part := file.read(min(left, BLOCK_BYTES))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def lines(file: BinaryIO, max_bytes: int) -> Iterator[bytes | None]:
    """Yields lines without their ends (LF, CRLF or CR), and None for a line longer than ``max_bytes``.

    Memory stays at one block and one line. A lone CR ends a line too, as in files from old Macs.
    """
    rest = b""
    overflowing = False
    after_cr = False
    for raw in blocks(file):
        block = raw
        if after_cr and block.startswith(b"\n"):  # the LF of a CRLF that is in two blocks
            block = block[1:]
        after_cr = raw.endswith(b"\r")
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        pieces = (rest + block).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            yield None if overflowing or len(piece) > max_bytes else piece
            overflowing = False
        if len(rest) > max_bytes:
            rest, overflowing = b"", True
    if rest or overflowing:
        yield None if overflowing or len(rest) > max_bytes else rest
