"""Matrices as a user has them: what they hold is checked, and read as float32 in blocks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from setclip_cli.arrays.arrow import as_arrow, numbers_of_column, table_in_words
from setclip_cli.arrays.errors import InputError
from setclip_cli.errors import argument, first_line
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

# What can be given as a matrix: a numpy array, a memory map, a torch tensor, a column of vectors of Arrow, pandas or
# polars, a table of numbers, nested lists.
MatrixLike: TypeAlias = Any

WANTED = "give a matrix of finite numbers, one row for each item"
_BLOCK = 1 << 22  # numbers that are read at once: 16 MiB in float32


class Matrix:
    """(n, p) numbers that lie where the user has them.

    Args:
        values: What the user gave.
        name: The argument's name, for messages.

    Raises:
        InputError: it is not a matrix of real numbers with at least one row and one column.
    """

    def __init__(self, values: MatrixLike, name: str) -> None:
        self.name = name
        self._source = _source(values, name)
        shape = tuple(self._source.shape)
        if len(shape) != 2 or 0 in shape:
            fix = WANTED
            if len(shape) == 1 and shape[0]:
                fix = f"Reshape your data: {name}.reshape(1, -1) for one row, {name}.reshape(-1, 1) for one column"
            raise InputError(f"{argument(name)}: has the shape {shape}", fix=fix)

    def __len__(self) -> int:
        return int(self._source.shape[0])

    @property
    def width(self) -> int:
        return int(self._source.shape[1])

    def whole(self) -> Tensor:
        """(n, p) float32 on the CPU, row by row in memory. It is the user's own memory if that is float32 already.

        Raises:
            InputError: a row is not finite, or too long for float32.
        """
        own = _as_it_is(self._source)
        if own is not None:
            for start in range(0, len(own), self._rows_at_once()):
                self._check(own[start : start + self._rows_at_once()], start)
            return own
        rows = torch.empty(len(self), self.width)
        for start, block in self.blocks():
            rows[start : start + len(block)] = block
        return rows

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """(number of the first row, float32 rows) of one block after another, checked as `whole` does."""
        for start in range(0, len(self), self._rows_at_once()):
            block = _float32(self._source[start : start + self._rows_at_once()])
            self._check(block, start)
            yield start, block

    def _rows_at_once(self) -> int:
        return max(1, _BLOCK // self.width)

    def _check(self, block: Tensor, start: int) -> None:
        for place, reason in unusable_rows(block.numpy()).items():
            row = start + place
            if "zero" in reason:  # such as a text of unknown words: it is only like the others
                continue
            if "finite" not in reason or np.isfinite(_plain(self._source[row])).all():
                raise InputError(
                    f"{argument(self.name)}: row {row} is too long for float32: it holds {_largest(self._source[row])}",
                    fix="divide all rows by one number",
                )
            raise InputError(
                f"{argument(self.name)}: holds NaN or inf, first in row {row}",
                fix="leave such rows out, and count the pairs anew",
            )


def _source(values: MatrixLike, name: str) -> npt.NDArray[Any] | Tensor:
    """The numbers as numpy or torch has them, without a copy where that is possible."""
    if isinstance(values, Tensor):
        if values.layout != torch.strided:
            raise InputError(f"{argument(name)}: is a sparse tensor", fix=f"give {name}.to_dense()")
        if values.is_complex():
            raise InputError(f"{argument(name)}: holds complex numbers", fix=WANTED)
        return values.detach().cpu()
    if isinstance(values, str | Path):
        raise InputError(
            f"{argument(name)}: is text, not a matrix of numbers",
            fix=f"if it is the path of a .npy file, give numpy.load({str(values)!r}, mmap_mode='r')",
        )
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise InputError(f"{argument(name)}: is a sparse matrix", fix=f"give {name}.toarray()")
    if isinstance(values, np.ma.MaskedArray) and values.mask.any():
        raise InputError(
            f"{argument(name)}: is a masked array, and {int(values.mask.sum())} of its numbers are masked", fix=WANTED
        )
    column = as_arrow(values)
    found = numbers_of_column(column, name) if column is not None else _as_numpy(values, name)
    if found.dtype.kind == "c":
        raise InputError(f"{argument(name)}: holds complex numbers", fix=WANTED)
    if found.dtype.kind not in "fiub" and not found.dtype.name.startswith(("bfloat16", "float8")):
        raise _not_numbers(values, found, name)
    return found


def _as_numpy(values: MatrixLike, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{argument(name)}: is not a matrix of numbers ({_unequal_rows(values) or first_line(error)})", fix=WANTED
        ) from error


def _unequal_rows(values: MatrixLike) -> str:
    """Which rows differ in length, in words; empty if that is not what is wrong."""
    if not isinstance(values, list | tuple) or not all(hasattr(row, "__len__") for row in values):
        return ""
    lengths = [len(row) for row in values]
    row = next((row for row, length in enumerate(lengths) if length != lengths[0]), None)
    return "" if row is None else f"row 0 has {lengths[0]} numbers, and row {row} has {lengths[row]}"


def _not_numbers(values: MatrixLike, found: npt.NDArray[Any], name: str) -> InputError:
    """The error for an array of text, objects, dates or records."""
    what, fix = f"has the type {found.dtype}", WANTED
    if table := table_in_words(values, name):
        what, fix = table
    elif found.dtype.kind == "O" and found.size:
        example = next((item for item in found.flat if not isinstance(item, int | float)), found.flat[0])
        what = f"holds Python objects (dtype object), the first that is not a number is {str(example)[:40]!r}"
        if not found.ndim:
            what = f"it is a {type(values).__name__}"
        elif found.ndim == 1 and hasattr(example, "shape"):
            what, fix = "it is a column of arrays (dtype object)", f"give numpy.stack(list({name}))"
        elif all(isinstance(item, int | float) for item in found.flat):
            what, fix = "holds numbers as Python objects (dtype object)", f"give {name}.astype('float32')"
    return InputError(f"{argument(name)}: is not a matrix of numbers ({what})", fix=fix)


def _as_it_is(source: npt.NDArray[Any] | Tensor) -> Tensor | None:
    """The memory of the source itself as a tensor; None if it is not plain float32."""
    if isinstance(source, Tensor):
        return source if source.dtype == torch.float32 and source.is_contiguous() else None
    if source.dtype != np.float32 or not source.flags.c_contiguous:  # another byte order is another dtype
        return None
    return _shared(source)


def _shared(array: npt.NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():  # torch says that it may not write into read-only memory: nothing here does
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _float32(block: npt.NDArray[Any] | Tensor) -> Tensor:
    if isinstance(block, Tensor):
        return block.float().contiguous()
    with np.errstate(over="ignore"):  # the check of the block says it in words
        return _shared(np.ascontiguousarray(block, dtype=np.float32))


def _plain(row: npt.NDArray[Any] | Tensor) -> npt.NDArray[np.float64]:
    return row.double().numpy() if isinstance(row, Tensor) else np.asarray(row, np.float64)


def _largest(row: npt.NDArray[Any] | Tensor) -> str:
    values = _plain(row)
    return f"{values[np.abs(values).argmax()]:g}"
