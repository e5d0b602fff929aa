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

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMPRESSIONS = (".gz", ".bz2", ".zst")
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
    """Opens a file for reading, decompressed as its last suffix says.

    Raises:
        SetClipError: the file cannot be opened or read, or is cut short; also inside the with block, where it is read.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".gz", ".tgz"):
            with gzip.open(path) as file:
                yield cast("BinaryIO", file)
        elif suffix in (".bz2", ".tbz2"):
            with bz2.open(path) as file:
                yield cast("BinaryIO", file)
        elif suffix == ".zst":
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
