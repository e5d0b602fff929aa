"""What a file really is, from its first bytes: used where a file is not what its name or its place says.

The usual reasons are a clone without Git LFS, a log-in page saved in place of a download, and a wrong suffix.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from setclip_cli.errors import SetClipError

HEAD_BYTES = 512
_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head)\b", re.I | re.S)
_AGAIN = "download or copy the file again"


class Recognized(NamedTuple):
    """What a file is, as part of a sentence ("is a zip file"), and what helps."""

    what: str
    fix: str


_VECTORS = (
    "if it holds vectors, let its name end in {} and read it with --kind vector; else write its content as Parquet, or "
    "as image files"
)
LFS_POINTER = Recognized(
    "a Git LFS pointer, not the file itself", "git lfs pull   (in the clone that the file belongs to)"
)
HTML_PAGE = Recognized(
    "an HTML page, not the file itself",
    "download the file again; the page may be an error or a log-in page, so open it in a browser to see",
)
EMPTY = Recognized("an empty file", _AGAIN)
ZIP = Recognized("a zip file", "unzip it, or let its name end in .zip if it holds images or captions")
EMPTY_ZIP = Recognized("an empty zip file", _AGAIN)
PARQUET = Recognized("a Parquet file", "let its name end in .parquet")
OFFICE = Recognized("an Office file, such as Excel's", "save the table as CSV in UTF-8")
TAR = Recognized("a tar archive", "let its name end in .tar if it holds images or captions, or unpack it")

_MAGICS: tuple[tuple[bytes, Recognized], ...] = (
    (b"\x1f\x8b", Recognized("a gzip file", "gunzip it, or let its name end in .gz")),
    (b"BZh", Recognized("a bzip2 file", "bunzip2 it, or let its name end in .bz2")),
    (b"\x28\xb5\x2f\xfd", Recognized("a Zstandard file", "unzstd it, or let its name end in .zst")),
    (b"\xfd7zXZ\0", Recognized("an xz file", "unxz it")),
    (b"7z\xbc\xaf\x27\x1c", Recognized("a 7z archive", "unpack it with 7z x")),
    (b"Rar!\x1a\x07", Recognized("a RAR archive", "unpack it with unrar x")),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", EMPTY_ZIP),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OFFICE),
    (b"PAR1", PARQUET),
    (b"ARROW1", Recognized("an Arrow file", "write it as Parquet with pyarrow")),
    (b"\x89HDF\r\n\x1a\n", Recognized("an HDF5 file", _VECTORS.format(".h5"))),
    (b"\x93NUMPY", Recognized("a NumPy file", _VECTORS.format(".npy"))),
    (b"SQLite format 3\0", Recognized("an SQLite database", "export the table as CSV")),
    (b"%PDF", Recognized("a PDF file", "extract the pictures or the text from it")),
    (b"\x80\x02", Recognized("a Python pickle", "write its content as Parquet; setclip runs no code from data")),
    (b"\x80\x04", Recognized("a Python pickle", "write its content as Parquet; setclip runs no code from data")),
    (b"\x80\x05", Recognized("a Python pickle", "write its content as Parquet; setclip runs no code from data")),
)


def recognize(head: bytes) -> Recognized | None:
    """What the first ``HEAD_BYTES`` of a file say that it is; None if they say nothing that is known here."""
    if not head:
        return EMPTY
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return LFS_POINTER
    if _HTML.match(head):
        return HTML_PAGE
    if head[257:262] == b"ustar":
        return TAR
    if head.startswith(b"PK\x03\x04") and (b"[Content_Types].xml" in head or head[30:].startswith((b"xl/", b"_rels/"))):
        return OFFICE
    return None if is_text(head) else next((found for magic, found in _MAGICS if head.startswith(magic)), None)


def is_text(head: bytes) -> bool:
    """Whether the start of a file is UTF-8 without control characters, as no binary format is."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else a letter of several bytes is cut at the end
            return False
        text = head[: error.start].decode()
    return not any(letter < " " and letter not in "\t\n\r\f\v" for letter in text)


def head_of(path: Path) -> bytes:
    """The first ``HEAD_BYTES`` of a file. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def refuse_stand_in(path: Path) -> None:
    """Refuses a file that only stands for another one: a Git LFS pointer or an HTML page.

    Raises:
        SetClipError: it is one; the message names it and says what helps.
        OSError: the file cannot be read.
    """
    found = recognize(head_of(path))
    if found in (LFS_POINTER, HTML_PAGE):
        raise SetClipError(f"{path}: is {found.what}", fix=found.fix)


def refuse_stand_ins_in(folder: Path) -> None:
    """Refuses a folder that holds a Git LFS pointer in place of a file, as a clone without Git LFS has them.

    Raises:
        SetClipError: one of its small files is a pointer.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size < 1024 and recognize(head_of(path)) is LFS_POINTER:
            raise SetClipError(f"{path}: is {LFS_POINTER.what}", fix=LFS_POINTER.fix)


def starts_with(head: bytes) -> str:
    """The start of unknown bytes for a message: text as text, else in hexadecimal digits."""
    start = head[:16]
    try:
        text = start.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    return repr(text) if text and all(letter.isprintable() or letter in "\r\n\t" for letter in text) else start.hex(" ")
