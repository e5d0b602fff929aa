"""Vectors in .npy: one array (rows, width), little- or big-endian, in the order of C or of Fortran.

A block is read with plain reads, not from a memory map: a map counts as memory of the process, and a file that becomes
shorter while it is mapped ends the process.
"""

from __future__ import annotations

import tokenize
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from setclip_cli.errors import SetClipError, first_line, translated
from setclip_cli.files.recognize import head_of, recognize
from setclip_cli.ingest.sources.vectors.blocks import (
    Block,
    VectorFile,
    checked_dtype,
    checked_shape,
    cut_short,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BAD_HEADER = (ValueError, EOFError, KeyError, TypeError, SyntaxError, tokenize.TokenError, RecursionError)


class Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    bytes: int  # of the header itself: the numbers begin here


def read_header(path: Path, file: IO[bytes], what: str = "the array") -> Header:
    """The header of an array in the format of NumPy.

    Raises:
        SetClipError: it is not one.
    """
    try:
        version = npy_format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = npy_format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = npy_format.read_array_header_2_0(file)
        elif version != (3, 0):
            raise ValueError(f"version {version[0]}.{version[1]} of the format is not known")
        else:  # it is there for names of fields
            raise SetClipError(
                f"{path}: {what} has the version {version[0]}.{version[1]} of NumPy's format, which is for structured "
                "arrays",
                fix="write the field with the vectors as an array of its own",
            )
    except _BAD_HEADER as error:
        raise SetClipError(
            f"{path}: {what} has no header of NumPy that can be read ({first_line(error)})",
            fix="download or copy it again, or write it with np.save(path, array)",
        ) from error
    return Header(shape, fortran, dtype, file.tell())


class NpyFile(VectorFile):
    """One .npy file."""

    def __init__(self, path: Path, *, scale: float | None = None) -> None:
        with translated(path, OSError, found="cannot be read", fix="check the path"), path.open("rb") as file:
            head = file.read(6)
            if head != b"\x93NUMPY":
                raise _not_npy(path)
            file.seek(0)
            self._header = header = read_header(path, file)
            size = file.seek(0, 2)
            dtype = checked_dtype(path, header.dtype, scale=scale)
            rows, width = checked_shape(path, header.shape)
            needed = header.bytes + rows * width * dtype.itemsize
            file.seek(min(needed, size))
            behind = file.read(6)
        super().__init__(path, width=width, dtype=dtype, rows=rows)
        if needed > size:
            raise cut_short(path, f"an array of {rows:,} x {width:,} {dtype.name}", needed, size)
        if behind == b"\x93NUMPY":  # np.save was given an open file again
            raise SetClipError(
                f"{path}: another array follows the first one, of {rows:,} x {width:,}",
                fix="write each of them into a file of its own; np.load(file) again and again reads them one by one",
            )
        if size > needed:
            self.notes.append(f"{size - needed:,} bytes behind the array are not read")

    def blocks(self, start: int = 0) -> Iterator[Block]:
        with translated(self.path, OSError, found="cannot be read", fix="check the disk"), self.path.open("rb") as file:
            for first in range(start, self.rows or 0, self.block_rows):
                count = min(self.block_rows, (self.rows or 0) - first)
                read = self._columns if self._header.fortran else self._rows
                yield Block(read(file, first, count))

    def _rows(self, file: IO[bytes], first: int, count: int) -> Any:
        values = np.empty((count, self.width), self.dtype)
        self._fill(file, first * self.width, values)
        return values

    def _columns(self, file: IO[bytes], first: int, count: int) -> Any:
        """The rows of an array in Fortran's order, in which each column is in one piece."""
        columns = np.empty((self.width, count), self.dtype)
        for number, column in enumerate(columns):
            self._fill(file, number * (self.rows or 0) + first, column)
        return columns.T

    def _fill(self, file: IO[bytes], item: int, target: Any) -> None:
        file.seek(self._header.bytes + item * self.dtype.itemsize)
        there = file.readinto(target.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
        if there < target.nbytes:
            raise cut_short(self.path, "the next block", target.nbytes, there)


def _not_npy(path: Path) -> SetClipError:
    found = recognize(head_of(path))
    if found is not None:
        return SetClipError(f"{path}: is {found.what}, not an array of NumPy", fix=found.fix)
    return SetClipError(
        f"{path}: is not an array of NumPy: it does not begin as one", fix="write it with np.save(path, array)"
    )
