"""Counts what a text file holds in another way than the readers that cut it: a reader that loses something is found.

Each count looks at the blocks of the file as they are read, before they are cut.
"""

from __future__ import annotations

import codecs
from typing import BinaryIO, Protocol, cast


class Count(Protocol):
    @property
    def total(self) -> int: ...

    def add(self, block: bytes) -> None: ...


class _Watched:
    def __init__(self, file: BinaryIO, count: Count) -> None:
        self._file, self._count = file, count

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        self._count.add(block)
        return block


def watched(file: BinaryIO, count: Count) -> BinaryIO:
    """The stream, each block of which is also shown to ``count``."""
    return cast("BinaryIO", _Watched(file, count))


class LineCount:
    """Lines that end with LF, CRLF or CR; the last one may have no end."""

    def __init__(self) -> None:
        self._ends = 0
        self._last = b""  # the last byte so far

    @property
    def total(self) -> int:
        return self._ends + (self._last not in (b"", b"\n", b"\r"))

    def add(self, block: bytes) -> None:
        if not block:
            return
        self._ends += block.count(b"\n")
        if b"\r" in block:
            self._ends += block.count(b"\r") - block.count(b"\r\n")
        self._ends -= self._last == b"\r" and block.startswith(b"\n")  # a CRLF that is in two blocks
        self._last = block[-1:]


class FastaCount:
    """Lines that begin with ``>``, and what is before the first of them if that is more than white space."""

    def __init__(self) -> None:
        self._headers = 0
        self._last = b""
        self._text_before = False

    @property
    def total(self) -> int:
        return self._headers + self._text_before

    def add(self, block: bytes) -> None:
        if not self._last:
            block = block.removeprefix(codecs.BOM_UTF8)
        if not block:
            return
        if not self._headers:
            start = b"\n" if self._last in (b"", b"\n", b"\r") else b"-"
            before = (start + block.replace(b"\r", b"\n")).partition(b"\n>")[0]
            self._text_before |= bool(before[1:].strip())
        self._headers += block.count(b"\n>") + block.count(b"\r>")
        self._headers += block.startswith(b">") and self._last in (b"", b"\n", b"\r")
        self._last = block[-1:]


class FlatFileCount:
    """Lines that are ``//``, and what is after the last of them if that is more than white space."""

    def __init__(self) -> None:
        self._ends = 0
        self._rest = b"\n"  # the last bytes, which may be the beginning of a line ``//``
        self._open = False

    @property
    def total(self) -> int:
        return self._ends + (self._rest.endswith(b"\n//") or self._open)

    def add(self, block: bytes) -> None:
        if not block:
            return
        text = self._rest + (block.replace(b"\r", b"\n") if b"\r" in block else block)
        position = -1
        while (found := text.find(b"\n//\n", max(position, 0))) >= 0:
            self._ends += 1
            position = found + 3
        rest = text if position < 0 else text[position:]
        self._open = bool(rest.strip()) or (position < 0 and self._open)
        self._rest = rest[-3:]
