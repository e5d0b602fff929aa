"""Which vectors a cosine can compare. Whatever writes vectors to a file, or answers with them, asks here first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

SHORTEST = 1e-12  # PyTorch's normalize does not scale a shorter vector to length 1


def unusable_rows(vectors: npt.NDArray[Any]) -> dict[int, str]:
    """The rows of (n, d) vectors that have no direction in float32: row -> what is wrong, to follow "its vector"."""
    rows = np.asarray(vectors, np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", rows, rows)
        found = np.flatnonzero(~((squares > SHORTEST**2) & (squares < np.inf)))
    return {int(row): _what_is_wrong(rows[row]) for row in found}


def _what_is_wrong(row: npt.NDArray[np.float32]) -> str:
    if not np.isfinite(row).all():
        return "is not finite"
    return "is zero" if np.linalg.norm(row.astype(np.float64)) <= 1 else "is too long for float32"
