"""Columns of vectors in Arrow's format: of pyarrow, and of what hands itself over as Arrow, such as a polars Series."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.arrays.errors import InputError
from setclip_cli.errors import argument

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa


def as_arrow(values: Any) -> pa.ChunkedArray | None:
    """A column of lists in Arrow's format, without a copy; None for anything else, tables of numbers included."""
    if isinstance(values, np.ndarray) or not (_is_arrow(values) or hasattr(values, "__arrow_c_stream__")):
        return None
    import pyarrow as pa

    if isinstance(values, pa.Table | pa.RecordBatch):
        return None
    try:
        column = pa.chunked_array([values]) if isinstance(values, pa.Array) else pa.chunked_array(values)
    except (pa.ArrowException, TypeError, ValueError):  # such as a pandas Series of objects
        return None
    return column if _is_list(column.type) else None


def numbers_of_column(column: pa.ChunkedArray, name: str) -> npt.NDArray[Any]:
    """(n, p) numbers of a column of lists. One chunk is not copied.

    Raises:
        InputError: a row is missing or holds a missing number, rows differ in length, or they are not numbers.
    """
    parts = [_numbers(chunk, name) for chunk in column.chunks if len(chunk)]
    if len({part.shape[1] for part in parts}) > 1:
        shortest, longest = (pick(part.shape[1] for part in parts) for pick in (min, max))
        raise _unequal(name, shortest, longest)
    if not parts:
        return np.zeros((0, 0), np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def table_in_words(values: Any, name: str) -> tuple[str, str] | None:
    """What is said of a table whose columns are not all numbers, and what to give; None for what is not a table."""
    columns = getattr(values, "column_names", getattr(values, "columns", None))
    if columns is None or isinstance(values, np.ndarray):
        return None
    names = list(columns)
    lists = [column for column in names if as_arrow(values[column]) is not None]
    fix = "give the columns of numbers alone"
    if len(lists) == 1:
        fix = f"give the column of vectors: {name}[{lists[0]!r}]"
    return f"it is a table with the columns {', '.join(map(str, names[:6]))}", fix


def _is_arrow(values: Any) -> bool:
    return "pyarrow" in sys.modules and type(values).__module__.partition(".")[0] == "pyarrow"


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if isinstance(kind, pa.FixedShapeTensorType):
        return True
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _numbers(chunk: pa.Array, name: str) -> npt.NDArray[Any]:
    """(rows, width) numbers of one chunk."""
    import pyarrow as pa

    if isinstance(chunk.type, pa.FixedShapeTensorType):
        if len(chunk.type.shape) != 1:
            raise InputError(
                f"{argument(name)}: each row is a tensor of the shape {list(chunk.type.shape)}",
                fix="give one vector for each row",
            )
        chunk = chunk.storage
    if chunk.null_count:
        row = next(row for row, value in enumerate(chunk.is_valid()) if not value.as_py())
        raise InputError(f"{argument(name)}: row {row} has no vector (it is null)", fix="leave such rows out")
    if pa.types.is_fixed_size_list(chunk.type):
        width = chunk.type.list_size
    else:
        lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
        width = int(lengths[0])
        if (lengths != width).any():
            raise _unequal(name, int(lengths.min()), int(lengths.max()))
    flat = chunk.flatten()
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
        raise InputError(f"{argument(name)}: holds vectors of {flat.type}", fix="give vectors of numbers")
    if flat.null_count:
        place = next(place for place, value in enumerate(flat.is_valid()) if not value.as_py())
        raise InputError(
            f"{argument(name)}: row {place // width} holds a missing number (null)", fix="leave such rows out"
        )
    numbers: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(len(chunk), width)
    return numbers


def _unequal(name: str, shortest: int, longest: int) -> InputError:
    return InputError(
        f"{argument(name)}: rows have {shortest} to {longest} numbers",
        fix="give rows of one length; average those of residues or words first",
    )
