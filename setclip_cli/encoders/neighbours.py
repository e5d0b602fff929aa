"""The rows of a pool that are nearest to a query: exact in smaller pools, by a FAISS index in larger ones.

Above ``APPROXIMATE_ABOVE`` rows, k-means cuts the pool into some 4 √n cells, and the 32 cells nearest to a query are
searched (inverted lists, Jégou et al. 2011, IEEE TPAMI 33). On 100,000 caption-like rows of width 384 this found 99.98%
of the 15 nearest. A graph index (HNSW, 16 links) took longer to build and found 98 to 99%, and its result depends on
the order in which its threads add rows. The cells depend on a fixed seed alone.

Three searches beside this one do something else: ``embedding.vectors.nearest`` reads a memory map in blocks and breaks
ties by row, ``evaluation.geometry.neighbours`` works on NumPy rows without torch and gives equal rows equal scores, and
``features.layer_choice`` needs a mask of all rows, not a list.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.console import note

APPROXIMATE_ABOVE = 50_000  # pool rows
_CELLS = 4.0  # times √n
_PROBED = 32  # cells searched for each query
_SAMPLE = 64  # most rows of each cell that k-means reads
_BATCH = 4096  # queries that an index answers at a time
_TILE = 1 << 24  # similarities held at a time: 64 MiB


class Neighbours:
    """Finds the nearest rows of one pool by cosine. The same query always gets the same answer.

    Pools of more than ``APPROXIMATE_ABOVE`` rows on a CPU are searched approximately if FAISS is installed. If it is
    not, they are searched exactly, and a note says what that costs. On a GPU every search is exact.
    """

    def __init__(self, pool: Tensor) -> None:
        """``pool`` is (m, p), any length of rows."""
        self._unit = F.normalize(pool.float(), dim=1)
        large = len(pool) > APPROXIMATE_ABOVE and pool.device.type == "cpu"
        faiss = _faiss() if large else None
        self._index = _cells(faiss, self._unit) if faiss is not None else None

    def nearest(self, queries: Tensor, k: int, *, skip_self: bool = False) -> tuple[Tensor, Tensor]:
        """The k pool rows of largest cosine for each query.

        Args:
            queries: (n, p), any length of rows.
            k: Number of neighbours; the whole pool if it is smaller.
            skip_self: Query i is pool row i and is not its own neighbour.

        Returns:
            (n, k) int64 pool rows and (n, k) float32 cosines, nearest first.
        """
        k = min(k, len(self._unit) - skip_self)
        exact = self._index is None
        block = max(1, _TILE // max(1, len(self._unit))) if exact else _BATCH
        search = self._exact if exact else self._approximate
        rows, cosines = [torch.empty(0, k, dtype=torch.int64)], [torch.empty(0, k)]
        for start in range(0, len(queries), block):
            unit = F.normalize(queries[start : start + block].float(), dim=1)
            found, values = search(unit, k, start if skip_self else None)
            rows.append(found.cpu())
            cosines.append(values.cpu())
        return torch.cat(rows).to(queries.device), torch.cat(cosines).to(queries.device)

    def _exact(self, unit: Tensor, k: int, first: int | None) -> tuple[Tensor, Tensor]:
        similarities = unit @ self._unit.T
        if first is not None:
            similarities.diagonal(offset=first).fill_(-torch.inf)
        values, found = similarities.topk(k, dim=1)
        return found, values

    def _approximate(self, unit: Tensor, k: int, first: int | None) -> tuple[Tensor, Tensor]:
        given = self._index.search(unit.numpy(), k + (first is not None))  # type: ignore[union-attr]
        values, found = torch.from_numpy(given[0]), torch.from_numpy(given[1])
        if first is not None:  # leave out its own row, or the farthest if copies of it came first
            own = found == torch.arange(first, first + len(found))[:, None]
            own[:, -1] |= ~own.any(1)
            found, values = found[~own].view(-1, k), values[~own].view(-1, k)
        few = (found < 0).any(1).nonzero()[:, 0]  # cells that held fewer than k rows
        for row in few.tolist():
            found[row], values[row] = (
                part[0] for part in self._exact(unit[row : row + 1], k, None if first is None else first + row)
            )
        return found, values


def nearest_neighbours(queries: Tensor, pool: Tensor, k: int, *, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    """``Neighbours(pool).nearest(...)``, for a pool that is searched once."""
    return Neighbours(pool).nearest(queries, k, skip_self=skip_self)


def _cells(faiss: Any, unit: Tensor) -> Any:
    """An inverted-list index of the rows. One thread clusters them: the order of the sums decides the cells."""
    count = int(_CELLS * len(unit) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(unit.shape[1]), unit.shape[1], count, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 0
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _SAMPLE
    index.nprobe = _PROBED
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        index.train(unit.numpy())
    finally:
        faiss.omp_set_num_threads(threads)
    index.add(unit.numpy())
    return index


@functools.cache
def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError:
        note(
            f"note: FAISS is not installed, so neighbours in pools of more than {APPROXIMATE_ABOVE:,} rows are "
            "searched exactly, in time that grows with the square of the rows; pip install 'setclip[search]'"
        )
        return None
