"""Features of a large pool, left on disk: a file of the cache for each shard, read where rows are asked for.

Rows are read by position, not through memory maps: the pages of a map count as memory of this process for as long as
the kernel likes, and a file that is cut short under a map ends the process.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

LARGE_ROWS = 200_000  # a pool of more rows is not held in memory where that can be avoided
BLOCK_ROWS = 65_536
_OPEN_FILES = 128


@dataclass(frozen=True)
class StoredFile:
    """A file of the cache, and where in it the (rows, dim) float32 features are."""

    path: Path
    rows: int
    offset: int


class FeatureRows:
    """(n, p) float32 features of one modality and split, in the order of the shards. Several threads may read."""

    def __init__(self, files: Sequence[StoredFile], dim: int) -> None:
        self._files, self.dim = list(files), dim
        self._starts = np.cumsum([0, *(file.rows for file in files)])
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: Tensor) -> Tensor:
        """(k, p) the features of these k rows, in their order.

        Raises:
            IndexError: there is no such row.
            SetClipError: a file cannot be read any more.
        """
        wanted = rows.cpu().numpy()
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows must be 0 to {len(self) - 1}, got {wanted.min()} to {wanted.max()}")
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        found = np.empty((len(wanted), self.dim), np.float32)
        bounds = np.searchsorted(ascending, self._starts)
        with self._lock:
            for number in np.flatnonzero(np.diff(bounds)).tolist():
                some = slice(bounds[number], bounds[number + 1])
                for place, row in zip(order[some], ascending[some] - self._starts[number], strict=True):
                    self._read(number, int(row), found[place])
        return torch.from_numpy(found)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Tensor]:
        """All features in their order, up to so many rows at a time. Raises SetClipError as `take` does."""
        for number, file in enumerate(self._files):
            for start in range(0, file.rows, rows):
                block = np.empty((min(rows, file.rows - start), self.dim), np.float32)
                with self._lock:
                    self._read(number, start, block)
                yield torch.from_numpy(block)

    def _read(self, number: int, row: int, into: npt.NDArray[np.float32]) -> None:
        """Fills ``into`` with the features from a row of a file on."""
        file, filled, whole = self._files[number], 0, into.data.cast("B")
        try:
            while filled < len(whole):
                place = file.offset + 4 * self.dim * row + filled
                read = os.preadv(self._opened(number), [whole[filled:]], place)
                if not read:
                    raise OSError(0, "it is shorter than it was")
                filled += read
        except OSError as error:
            raise SetClipError(
                f"{file.path}: cannot be read any more ({error.strerror})",
                fix="run the same command again: it makes this file of the cache anew",
            ) from error

    def _opened(self, number: int) -> int:
        if number not in self._open:
            if len(self._open) >= _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[number] = os.open(self._files[number].path, os.O_RDONLY)
        self._open.move_to_end(number)
        return self._open[number]

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def stored_file(path: Path, *, rows: int, dim: int) -> StoredFile | None:
    """Where ``features`` are in a safetensors file; None if they are others, or the file is cut short."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = file.seek(0, os.SEEK_END)
            if length > size:
                return None
            file.seek(8)
            about = json.loads(file.read(length))["features"]
        start, stop = about["data_offsets"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    fits = about["dtype"] == "F32" and about["shape"] == [rows, dim] and 8 + length + stop <= size
    return StoredFile(path, rows, 8 + length + start) if fits and stop - start == 4 * rows * dim else None
