"""The nearest-neighbour graph of an unlabelled pool, random walks on it, and averages along it.

A walk starts at the known item of each pair and returns there now and then. It shows which pair each pool row is
nearest to *along the data*. The same walk in the other modality gives coordinates that are comparable axis by axis.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from setclip_cli.encoders.neighbours import nearest_neighbours

LEAST_NEIGHBOURS, MOST_NEIGHBOURS = 15, 120
TEMPERATURE = 0.1
STAY = 0.9  # share of a walk that moves on at each step; 0.99 forgets where it came from
STEPS = 30  # 0.9^30 = 4% of the walk is still on its first trip
_FLOOR = 1e-6  # of the mean mass: a row that no walk reaches becomes equally near to every pair
_COLUMNS = 64  # walks taken together: the memory of a step, beside the result, is this wide
_ROWS_A_NEIGHBOUR = 60
_LINKS = 6_000_000  # most links of a whole graph, unless LEAST_NEIGHBOURS for each row make more
SMOOTH_STAY, SMOOTH_STEPS = 0.8, 5


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
    n, origins = len(pool), sources.cpu().numpy()
    graph = _graph(pool, neighbours, temperature)
    result = np.empty((n, len(origins)), dtype=np.float32)
    for first in range(0, len(origins), _COLUMNS):
        starts = origins[first : first + _COLUMNS]
        columns = np.arange(len(starts))
        mass = np.zeros((n, len(starts)), dtype=np.float32)
        mass[starts, columns] = 1
        for _ in range(steps):
            mass = graph @ mass
            mass *= stay
            mass[starts, columns] += 1 - stay
        mass /= mass.sum(0, keepdims=True)
        mass += np.float32(_FLOOR / n)
        result[:, first : first + _COLUMNS] = mass
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
    for _ in range(steps):
        mixed = stay * (graph @ mixed) + (1 - stay) * own
    return torch.from_numpy(np.ascontiguousarray(mixed, dtype=np.float32))


def _graph(pool: Tensor, neighbours: int | None, temperature: float) -> sparse.csr_matrix:
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
