"""Files with an array for each id, such as UniProt's per-protein HDF5; and arrays of ids beside a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.errors import SetClipError, argument, nearest
from setclip_cli.ingest.sources.vectors.blocks import Block, Values, VectorFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

ID_NAMES = ("id", "ids", "name", "names", "key", "keys", "accession", "accessions", "filename", "filenames")


class NamedArrays(VectorFile):
    """An array for each id.

    Args:
        count: How many there are.
        average: Whether an array (L, d), such as one vector for each residue, becomes the mean of its L vectors.
        scale: Of integers.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        *,
        width: int,
        dtype: np.dtype[Any],
        average: bool,
        scale: float | None,
    ) -> None:
        whole_means = average and dtype.kind in "iu"  # the mean of whole numbers is none
        super().__init__(path, width=width, dtype=np.dtype("<f8") if whole_means else dtype, rows=count, has_ids=True)
        self.average, self.read_dtype = average, dtype
        self._factor = scale if whole_means and scale is not None else 1

    def names(self) -> list[str]:
        """The names of the arrays, in the order of the rows."""
        raise NotImplementedError

    def vectors(self, names: list[str]) -> Iterator[Values | str]:
        """The vector of each name, or why there is none."""
        raise NotImplementedError

    def ids_of(self, names: list[str]) -> list[str]:
        """The ids of arrays with these names."""
        return names

    def blocks(self, start: int = 0) -> Iterator[Block]:
        every = self.names()
        for first in range(start, len(every), self.block_rows):
            names = every[first : first + self.block_rows]
            values = np.zeros((len(names), self.width), self.dtype)
            unread: dict[int, str] = {}
            for place, vector in enumerate(self.vectors(names)):
                if isinstance(vector, str):
                    unread[place] = vector
                else:
                    with np.errstate(over="ignore"):
                        values[place] = vector if self._factor == 1 else vector * np.float64(self._factor)
            yield Block(values, self.ids_of(names), unread=unread)


def vector_of(array: Values, width: int, *, average: bool) -> Values | str:
    """The vector of an array: itself, its only row, or the mean of its rows if that is asked for."""
    if why := why_no_vector(array.shape, width, average=average):
        return why
    if array.size == width:
        return array.reshape(width)
    # float64 sums: the mean of many float16 would lose its last digits
    mean: Values = array.mean(axis=0, dtype=np.float64)
    return mean


def why_no_vector(shape: tuple[int, ...], width: int, *, average: bool) -> str | None:
    """Why an array of this shape gives no vector; None if it gives one. Nothing is read or allocated for it."""
    if len(shape) not in (1, 2):
        return f"array with other axes than (width) or (length, width): its shape is {shape}"
    if shape[-1] != width:
        return other_width(shape[-1], width)
    if len(shape) == 2 and shape[0] == 0:
        return "array without vectors"
    if len(shape) == 2 and shape[0] > 1 and not average:
        return f"array of several vectors: its shape is {shape}"
    return None


def other_width(found: int, width: int) -> str:
    return f"other width than the first vector of the file: {found:,}, not {width:,}"


def id_column_of(path: Path, names: Collection[str], chosen: str | None) -> str | None:
    """The array or column with the ids: the chosen one, or one with a usual name; None if there is none."""
    if chosen is None:
        by_lower_case = {name.lower(): name for name in names}
        return next((by_lower_case[name] for name in ID_NAMES if name in by_lower_case), None)
    if chosen not in names:
        raise SetClipError(
            f"{path}: has no {chosen!r}, only {', '.join(map(repr, list(names)[:8])) or 'nothing'}"
            f"{nearest(chosen, names)}",
            fix=f"give the name of the ids with {argument('id_column')}, or a file of them with {argument('ids')}",
        )
    return chosen
