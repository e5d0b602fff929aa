"""What a file of vectors gives: blocks of rows. Memory holds a few blocks, never the file.

A reader checks the file when it is made: width, type of the numbers and, where the format says it, the number of rows.
Nothing is allocated from what a header says before it was compared with the size of the file.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from setclip_cli.errors import SetClipError, argument

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Values: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MAX_WIDTH = 65_536
BLOCK_BYTES = 4 << 20  # of one block, as it is in the file


class Block(NamedTuple):
    """Consecutive rows of a file, as they are there.

    Attributes:
        values: (n, d) numbers of the file's own type.
        ids, groups, labels, splits: n values each; None where the format has none. A single value may be None too.
        unread: The place of a row in the block -> why it could not be read; what is in ``values`` there means nothing.
        places: Where each row is in the file, such as "line 3"; None: the reader of vectors counts "row 0", "row 1".
    """

    values: Values
    ids: Sequence[str | None] | None = None
    groups: Sequence[str | None] | None = None
    labels: Sequence[str | None] | None = None
    splits: Sequence[str | None] | None = None
    unread: Mapping[int, str] = MappingProxyType({})
    places: Sequence[str] | None = None


class VectorFile:
    """A file of vectors, which is opened and checked.

    Attributes:
        path: The file.
        width: Numbers of a vector.
        dtype: Type of the numbers as ``blocks`` gives them.
        rows: How many there are; None if the format does not say it.
        has_ids: Whether the format has an id for each row.
        notes: How the file was read, for the summary.
    """

    def __init__(
        self, path: Path, *, width: int, dtype: np.dtype[Any], rows: int | None, has_ids: bool = False
    ) -> None:
        self.path, self.rows, self.has_ids = path, rows, has_ids
        self.width = checked_width(path, width)
        self.dtype = np.dtype(dtype)
        self.notes: list[str] = []
        self.encoder: str | None = None  # what computed the vectors, if the file says it

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """The rows from number ``start`` on, in an order that never changes.

        Raises:
            SetClipError: the file is cut short or damaged, or has changed since it was opened.
        """
        raise NotImplementedError

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return rows_of_block(self.width * self.dtype.itemsize)


def rows_of_block(row_bytes: int) -> int:
    return max(1, BLOCK_BYTES // max(row_bytes, 1))


def checked_width(path: Path, width: int) -> int:
    if width < 1:
        raise SetClipError(f"{path}: its vectors have no numbers (width 0)", fix="write the vectors again")
    if width > MAX_WIDTH:
        raise SetClipError(
            f"{path}: its vectors have {width:,} numbers, and setclip takes {MAX_WIDTH:,} at most",
            fix="reduce them first, such as with sklearn.random_projection or PCA; if each row is one dimension of all "
            "vectors, write the array transposed",
        )
    return width


def checked_shape(path: Path, shape: Sequence[int], *, what: str = "the array") -> tuple[int, int]:
    """(rows, width) of an array that must have two axes."""
    if len(shape) == 2:
        return int(shape[0]), int(shape[1])
    shown = f"{what} has the shape {tuple(int(n) for n in shape)}, but (rows, width) is needed"
    if len(shape) == 3:
        fix = "take the mean over one axis first, such as np.save(path, array.mean(axis=1))"
    elif len(shape) == 1:
        fix = "if it is one vector, write array[None, :]; if it holds lists of numbers, write np.stack(array)"
    else:
        fix = "write one vector a row: array.reshape(rows, width)"
    raise SetClipError(f"{path}: {shown}", fix=fix)


def checked_dtype(path: Path, dtype: np.dtype[Any], *, scale: float | None, what: str = "the array") -> np.dtype[Any]:
    """The type of numbers, if it can be read.

    Raises:
        SetClipError: it cannot, or it is an integer of 8 bits and no scale is given.
    """
    dtype = np.dtype(dtype)
    if dtype.names is not None:
        raise SetClipError(
            f"{path}: {what} is structured: its fields are {', '.join(map(repr, dtype.names[:8]))}",
            fix="write the field with the vectors as an array of its own",
        )
    if dtype.hasobject:
        raise SetClipError(
            f"{path}: {what} holds Python objects (pickle), and setclip runs no code from data",
            fix="write numbers: np.save(path, np.stack(array).astype('float32')), with vectors of one width",
        )
    if dtype.kind == "V" and dtype.itemsize == 2:
        raise SetClipError(
            f"{path}: {what} holds items of 2 bytes without a type, as NumPy writes bfloat16",
            fix="write it with array.astype('float32'), or as safetensors, which knows bfloat16",
        )
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise SetClipError(
            f"{path}: {what} holds {dtype.name}, not float16, float32, float64 or integers",
            fix="write it with array.astype('float32')",
        )
    if dtype.kind in "iu" and dtype.itemsize == 1 and scale is None:
        shown = argument("scale")
        raise SetClipError(
            f"{path}: {what} holds {dtype.name}, which are shortened numbers; their scale is not known",
            fix=f"{shown} S if a number stands for S times itself; {shown} 1 if only directions count",
        )
    return dtype


def stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of a shard: float16 stays, all else becomes float32."""
    return np.dtype("<f2") if dtype.kind == "f" and dtype.itemsize == 2 else np.dtype("<f4")


def as_stored(values: Values, scale: float | None) -> Values:
    """(n, d) numbers as a shard holds them, with the rows one after the other. A number that is too large is inf."""
    target = stored_dtype(values.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        if scale is not None and values.dtype.kind in "iu":
            values = values * np.float64(scale) if values.dtype.itemsize > 2 else values * np.float32(scale)
        return np.ascontiguousarray(values, dtype=target)


def bfloat16_as_float32(bits: Values) -> Values:
    """uint16 with the bits of bfloat16 -> the same numbers as float32."""
    return (bits.astype("<u4") << 16).view("<f4")


def cut_short(path: Path, what: str, needed: int, there: int) -> SetClipError:
    return SetClipError(
        f"{path}: {what} needs {needed:,} bytes, but {there:,} are there: it is cut short, or its header is damaged",
        fix="download or copy it again, or write it again",
    )


def missing_package(path: Path, package: str, extra: str, what: str) -> SetClipError:
    return SetClipError(
        f"{path}: is {what}, and the package {package} that reads it is not installed",
        fix=f"pip install 'setclip[{extra}]'",
    )
