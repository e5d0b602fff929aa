"""Known pairs as a user has them, as row numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from setclip_cli.arrays.errors import InputError
from setclip_cli.errors import argument, first_line

if TYPE_CHECKING:
    import numpy.typing as npt

# What can be given as pairs: (b, 2) row numbers as an array, a tensor, nested lists or a table of two columns.
PairsLike: TypeAlias = Any

_WANTED = "give whole numbers of shape (pairs, 2): a row of x and a row of y"


def rows_of_pairs(pairs: PairsLike, left: int, right: int) -> Tensor:
    """(b, 2) int64: a row of x and a row of y.

    Args:
        pairs: What the user gave; None is no pair.
        left, right: Numbers of rows.

    Raises:
        InputError: they are not row numbers, or name rows that are not there.
    """
    found = _as_numpy(pairs)
    if not found.size:
        return torch.zeros(0, 2, dtype=torch.int64)
    if found.dtype.kind in "OUST":
        raise _ids(found)
    if found.dtype.kind not in "iu" or found.ndim != 2 or found.shape[1] != 2:
        raise InputError(
            f"{argument('pairs')}: has the shape {found.shape} and the type {found.dtype}", fix=_how_to_repair(found)
        )
    rows = found.astype(np.int64)
    _refuse_strange_rows(rows, left, right)
    return torch.from_numpy(rows)


def _as_numpy(pairs: PairsLike) -> npt.NDArray[Any]:
    if pairs is None:
        return np.zeros((0, 2), np.int64)
    if isinstance(pairs, dict):
        raise InputError(f"{argument('pairs')}: is a dict", fix="give list(pairs.items())")
    try:
        found = pairs.detach().cpu().numpy() if isinstance(pairs, Tensor) else np.asarray(pairs)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{argument('pairs')}: is not a matrix of numbers ({first_line(error)})", fix=_WANTED
        ) from error
    if not found.ndim:
        fix = "give list(pairs)" if hasattr(pairs, "__iter__") and not isinstance(pairs, str) else _WANTED
        raise InputError(f"{argument('pairs')}: is not a matrix of numbers (it is a {type(pairs).__name__})", fix=fix)
    return np.asarray(found)


def _ids(found: npt.NDArray[Any]) -> InputError:
    example = next((item for item in found.flat if isinstance(item, str | bytes)), found.flat[0])
    return InputError(
        f"{argument('pairs')}: holds {'ids' if isinstance(example, str | bytes) else 'objects'}, "
        f"such as {str(example)[:40]!r}, not row numbers",
        fix="look the rows up: rows = {name: row for row, name in enumerate(ids)} for each side, "
        "then pairs = [(rows_x[a], rows_y[b]) for a, b in pairs]",
    )


def _how_to_repair(found: npt.NDArray[Any]) -> str:
    if found.ndim == 2 and found.shape[0] == 2 and found.shape[1] != 2 and found.dtype.kind in "iu":
        return "give numpy.transpose(pairs): one pair in each row"
    if found.ndim == 2 and found.shape[1] == 2 and found.dtype.kind == "f" and bool((found == np.round(found)).all()):
        return "give row numbers as whole numbers: numpy.asarray(pairs).astype(int)"
    return _WANTED


def _refuse_strange_rows(rows: npt.NDArray[np.int64], left: int, right: int) -> None:
    sizes = np.array([left, right])
    wrong = ((rows < 0) | (rows >= sizes)).any(1)
    if not wrong.any():
        return
    fix = "count rows from 0"
    if ((rows >= 0) & (rows < sizes[::-1])).all():
        fix = "the columns may be swapped: the first one names a row of x, the second one a row of y"
    elif (rows >= 1).all() and (rows <= sizes).all():
        fix = "count rows from 0: give pairs - 1 if they were counted from 1"
    raise InputError(
        f"{argument('pairs')}: {int(wrong.sum())} of {len(rows)} name rows that are not there, the first "
        f"{rows[wrong][0].tolist()}; x has {left} rows and y has {right}",
        fix=fix,
    )
