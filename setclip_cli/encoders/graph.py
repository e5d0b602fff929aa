"""The nearest-neighbour graph of an unlabelled pool, random walks on it, and averages along it.

A walk starts at the known item of each pair and returns there now and then. It shows which pair each pool row is
nearest to *along the data*. The same walk in the other modality gives coordinates that are comparable axis by axis.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from setclip_cli.encoders.neighbours import nearest_neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Masses = npt.NDArray[np.float32]

LEAST_NEIGHBOURS, MOST_NEIGHBOURS = 15, 120
TEMPERATURE = 0.1
STAY = 0.9  # share of a walk that moves on at each step; 0.99 forgets where it came from
STEPS = 30  # 0.9^30 = 4% of the walk is still on its first trip
_FLOOR = 1e-6  # of the mean mass: a row that no walk reaches becomes equally near to every pair
_ROWS_A_THREAD = 5_000  # fewer are not worth a thread of their own in a sparse product
_COLUMNS = 64  # walks taken together: the memory of a step, beside the result, is this wide
_ROWS_A_NEIGHBOUR = 60
_LINKS = 6_000_000  # most links of a whole graph, unless LEAST_NEIGHBOURS for each row make more
SMOOTH_STAY, SMOOTH_STEPS = 0.8, 5
_KEPT_GRAPHS = 6  # 100 MB each for 200,000 rows
_KEPT_WALK_BYTES = 1 << 30  # later walks are made again


@dataclass
class _Kept:
    """Graphs, the newest last, and walks, by all that they depend on."""

    graphs: dict[Any, sparse.csr_matrix] = field(default_factory=dict)
    walks: dict[Any, Masses] = field(default_factory=dict)
    walk_bytes: int = 0


_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def kept_graphs() -> Iterator[None]:
    """Inside the block, a graph or a walk that was made before is used again. The result is the same, bit for bit.

    ``method = "auto"`` fits its candidates to the same two pools in every fold. Without this, its time on pools of
    50,000 rows was that of some twenty graphs, and of ten times the walks that it needs.
    """
    if _kept.get() is not None:  # an outer block keeps them
        yield
        return
    token = _kept.set(_Kept())
    try:
        yield
    finally:
        _kept.reset(token)


def neighbours_in(rows: int) -> int:
    """Number of neighbours of each row in the graph of a pool: a sixtieth of it, 15 to 120, fewer above 50,000 rows.

    In a large pool the nearest 15 are near copies of the row (captions repeat), and a walk cannot leave them. On 10,000
    captions with 3 known items a class, walks over 15 neighbours named the class of 72% of the rows, walks over 120 the
    class of 82%. On 900 images 15 were as good as any number (benchmarks/results.md).
    """
    return max(LEAST_NEIGHBOURS, min(rows // _ROWS_A_NEIGHBOUR, MOST_NEIGHBOURS, _LINKS // max(1, rows)))


def diffuse(
    pool: Tensor,
    sources: Tensor,
    *,
    neighbours: int | None = None,
    temperature: float = TEMPERATURE,
    stay: float = STAY,
    steps: int = STEPS,
) -> Tensor:
    """Random walks with restart from each source over the k-nearest-neighbour graph of a pool.

    Z <- stay · D^-½ A D^-½ Z + (1 - stay) Y; A_ij = exp(cos(x_i, x_j) / temperature) on the symmetrised graph

    Args:
        pool: (n, p) features of one modality, unlabelled.
        sources: (c,) int64 pool rows; a row may come up more than once.
        neighbours: Number of neighbours of each row; None for ``neighbours_in`` the pool.
        temperature, stay, steps: The walk.

    Returns:
        (n, c) float32 mass; every column sums to 1. Memory is that of the result and of the graph, at most
        2 · n · neighbours edges.

    Raises:
        ValueError: no sources, or one that is not in the pool.

    Source: Zhou et al. 2004, Learning with Local and Global Consistency (NeurIPS 16).
    """
    if not len(sources) or int(sources.min()) < 0 or int(sources.max()) >= len(pool):
        raise ValueError(f"sources must be rows of a pool of {len(pool)}; got {sources.tolist()[:8]}")
    n, origins = len(pool), sources.tolist()
    result = np.empty((n, len(origins)), dtype=np.float32)
    kept, key = _kept.get(), _key(pool, neighbours, temperature, stay, steps)
    known = kept.walks if kept is not None else {}
    missing = [source for source in dict.fromkeys(origins) if (key, source) not in known]
    for column, source in enumerate(origins):
        if (key, source) in known:
            result[:, column] = known[key, source]
    if not missing:
        return torch.from_numpy(result)
    columns: dict[int, list[int]] = {}
    for column, source in enumerate(origins):
        columns.setdefault(source, []).append(column)
    graph = _graph(pool, neighbours, temperature)
    with _Product(graph) as product:
        for first in range(0, len(missing), _COLUMNS):
            starts = missing[first : first + _COLUMNS]
            mass = _walk(product, np.array(starts), stay=stay, steps=steps)
            for place, source in enumerate(starts):
                result[:, columns[source]] = mass[:, place, None]
                if kept is not None and kept.walk_bytes + 4 * n <= _KEPT_WALK_BYTES:
                    kept.walks[key, source] = mass[:, place].copy()
                    kept.walk_bytes += 4 * n
    return torch.from_numpy(result)


def smooth(
    pool: Tensor,
    values: Tensor,
    *,
    neighbours: int | None = None,
    temperature: float = TEMPERATURE,
    stay: float = SMOOTH_STAY,
    steps: int = SMOOTH_STEPS,
) -> Tensor:
    """Values of a pool's rows, averaged along its graph. What neighbours share stays; what only one row has fades.

    Z <- stay · W Z + (1 - stay) · V, W the matrix of ``diffuse`` with every row scaled to sum 1

    Args:
        pool: (n, p) features of one modality, unlabelled.
        values: V, (n, d), of the same rows.
        neighbours: Number of neighbours of each row; None for ``neighbours_in`` the pool.
        temperature, stay, steps: The averaging.

    Returns:
        (n, d) float32; each row a weighted mean of rows of ``values``.

    Raises:
        ValueError: another number of values than of pool rows.

    Source: diffusion on region manifolds for retrieval, Iscen et al. 2017, arXiv:1611.05113, on embeddings here.
    """
    if len(values) != len(pool):
        raise ValueError(f"smooth needs a value for each of the {len(pool)} rows of the pool; got {len(values)}")
    own = values.detach().float().cpu().numpy()
    if len(pool) < 2:
        return torch.from_numpy(own.copy())
    graph = _graph(pool, neighbours, temperature)
    graph = sparse.diags(1 / np.maximum(np.asarray(graph.sum(1)).ravel(), 1e-12), dtype=np.float32) @ graph
    mixed = own
    with _Product(graph) as product:
        for _ in range(steps):
            mixed = stay * product(mixed) + (1 - stay) * own
    return torch.from_numpy(np.ascontiguousarray(mixed, dtype=np.float32))


def _walk(product: _Product, starts: npt.NDArray[np.int64], *, stay: float, steps: int) -> Masses:
    """(n, starts) float32: where the walks from these rows are, each column of sum 1."""
    columns = np.arange(len(starts))
    width = max(2, len(starts))  # NumPy sums a single column in another order
    mass = np.zeros((product.rows, width), dtype=np.float32)
    mass[starts, columns] = 1
    for _ in range(steps):
        mass = product(mass)
        mass *= stay
        mass[starts, columns] += 1 - stay
    shares: Masses = mass[:, : len(starts)] / mass.sum(0, keepdims=True)[:, : len(starts)]
    shares += np.float32(_FLOOR / product.rows)
    return shares


class _Product:
    """Multiplies a sparse matrix with dense ones, some of its rows in each thread: SciPy's own product uses one."""

    def __init__(self, graph: sparse.csr_matrix) -> None:
        self.rows = graph.shape[0]
        threads = min(os.cpu_count() or 1, max(1, self.rows // _ROWS_A_THREAD))
        bounds = np.linspace(0, self.rows, threads + 1).astype(int)
        self._parts = [graph[start:stop] for start, stop in pairwise(bounds)]
        self._threads = ThreadPoolExecutor(threads)

    def __call__(self, dense: Masses) -> Masses:
        return np.concatenate(list(self._threads.map(lambda part: part @ dense, self._parts)))

    def __enter__(self) -> _Product:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()


def _key(pool: Tensor, *settings: object) -> tuple[object, ...]:
    """Equal for pools of equal bytes and equal settings."""
    own = np.ascontiguousarray(pool.detach().cpu().numpy())
    return (*own.shape, str(own.dtype), hashlib.sha256(own.data).digest(), *settings)


def _graph(pool: Tensor, neighbours: int | None, temperature: float) -> sparse.csr_matrix:
    """The graph of a pool, made once inside ``kept_graphs``."""
    kept = _kept.get()
    if kept is None:
        return _new_graph(pool, neighbours, temperature)
    key = _key(pool, neighbours, temperature)
    graph = kept.graphs.pop(key, None)
    if graph is None:
        graph = _new_graph(pool, neighbours, temperature)
    kept.graphs[key] = graph
    if len(kept.graphs) > _KEPT_GRAPHS:
        del kept.graphs[next(iter(kept.graphs))]
    return graph


def _new_graph(pool: Tensor, neighbours: int | None, temperature: float) -> sparse.csr_matrix:
    """D^-½ A D^-½ of the symmetrised k-nearest-neighbour graph, float32."""
    n = len(pool)
    neighbours = neighbours_in(n) if neighbours is None else neighbours
    rows, cosines = nearest_neighbours(pool, pool, neighbours, skip_self=True)
    weights = torch.exp((cosines - 1) / temperature).cpu().numpy()  # the -1 cancels in the normalisation
    columns = rows.cpu().numpy()
    entries = (weights.ravel(), (np.repeat(np.arange(n), columns.shape[1]), columns.ravel()))
    adjacency = sparse.csr_matrix(entries, shape=(n, n), dtype=np.float32)
    adjacency = adjacency.maximum(adjacency.T)
    degree = np.asarray(adjacency.sum(1)).ravel()
    scale = sparse.diags(1 / np.sqrt(np.maximum(degree, 1e-12)), dtype=np.float32)
    return sparse.csr_matrix(scale @ adjacency @ scale)
