"""Features of a large pool in memory maps: a file of the cache for each shard, read where rows are asked for."""

from __future__ import annotations

import json
import mmap
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

LARGE_ROWS = 200_000  # a pool of more rows is not held in memory where that can be avoided
BLOCK_ROWS = 65_536
_HELD_BYTES = 64 << 20  # of maps, which count as memory of this process until they are closed
_MAPPED_AT_ONCE = 64 << 10  # what Linux maps around a page that is asked for
_OPEN_FILES = 128


@dataclass(frozen=True)
class MappedFile:
    """A file of the cache, and where in it the (rows, dim) float32 features are."""

    path: Path
    rows: int
    offset: int


class FeatureRows:
    """(n, p) float32 features of one modality and split, in the order of the shards. They stay on disk.

    Reading returns copies. The maps that it needs are closed when they have taken up ``_HELD_BYTES``, so memory does
    not grow with n. Several threads may read.
    """

    def __init__(self, files: Sequence[MappedFile], dim: int) -> None:
        self._files, self.dim = list(files), dim
        self._starts = np.cumsum([0, *(file.rows for file in files)])
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: Tensor) -> Tensor:
        """(k, p) the features of these k rows, in their order."""
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
                found[order[some]] = self._view(number)[ascending[some] - self._starts[number]]
                self._count(max(_MAPPED_AT_ONCE, 4 * self.dim) * (some.stop - some.start))
        return torch.from_numpy(found)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Tensor]:
        """All features in their order, up to so many rows at a time."""
        for number, file in enumerate(self._files):
            for start in range(0, file.rows, rows):
                with self._lock:
                    block = self._view(number)[start : start + rows].copy()
                    self._count(block.nbytes)
                yield torch.from_numpy(block)

    def _view(self, number: int) -> npt.NDArray[np.float32]:
        """The features in a file. Nothing may keep the array: an open view keeps its map from being closed."""
        file = self._files[number]
        if number not in self._maps:
            if len(self._maps) >= _OPEN_FILES:
                self._maps.popitem(last=False)[1].close()
            with file.path.open("rb") as opened:
                self._maps[number] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.move_to_end(number)
        flat = np.frombuffer(self._maps[number], np.float32, file.rows * self.dim, file.offset)
        return flat.reshape(file.rows, self.dim)

    def _count(self, size: int) -> None:
        self._held += size
        if self._held > _HELD_BYTES:
            self._held = 0
            while self._maps:
                self._maps.popitem()[1].close()


def mapped_file(path: Path, *, rows: int, dim: int) -> MappedFile | None:
    """Where ``features`` are in a safetensors file; None if they are others, or the file is cut short."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = file.seek(0, 2)
            if length > size:
                return None
            file.seek(8)
            about = json.loads(file.read(length))["features"]
        start, stop = about["data_offsets"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    fits = about["dtype"] == "F32" and about["shape"] == [rows, dim] and 8 + length + stop <= size
    return MappedFile(path, rows, 8 + length + start) if fits and stop - start == 4 * rows * dim else None
