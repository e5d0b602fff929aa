"""The graph that nearest neighbours make of an unlabelled pool, and random walks on it.

A walk that starts at the known item of each pair, and returns there now and then, says which pair every pool row is
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
_COLUMNS = 64  # walks taken together: what a step needs beside the result is that wide
_ROWS_A_NEIGHBOUR = 60
_LINKS = 6_000_000  # that a row's neighbours may come to over the whole pool, beyond LEAST_NEIGHBOURS each
CARRY_STAY, CARRY_STEPS = 0.8, 5


def neighbours_in(rows: int) -> int:
    """Neighbours of each row in the graph of a pool: a sixtieth of it, 15 to 120, and fewer again above 50,000 rows.

    In a large pool the nearest 15 are near copies of the row (captions repeat), and a walk does not get away from them:
    on 10,000 captions with 3 known items a class, walks over 15 neighbours named the class of 72% of the rows, over
    120 of 82%; on 900 images 15 were as good as any number (benchmarks/results.md).
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
        sources: (c,) int64 pool rows; the same row may come up more than once.
        neighbours: Of each row; None for ``neighbours_in`` the pool.
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


def carry(
    pool: Tensor,
    values: Tensor,
    *,
    neighbours: int | None = None,
    temperature: float = TEMPERATURE,
    stay: float = CARRY_STAY,
    steps: int = CARRY_STEPS,
) -> Tensor:
    """Values of a pool's rows, averaged along its graph: what neighbours agree on stays, what each has alone fades.

    Z <- stay · W Z + (1 - stay) · V, W the matrix of ``diffuse`` with every row scaled to sum 1

    Args:
        pool: (n, p) features of one modality, unlabelled.
        values: (n, d) of the same rows, V.
        neighbours: Of each row; None for ``neighbours_in`` the pool.
        temperature, stay, steps: The averaging.

    Returns:
        (n, d) float32; each row a weighted mean of rows of ``values``.

    Raises:
        ValueError: values of other rows than the pool's.

    Source: diffusion on region manifolds for retrieval, Iscen et al. 2017, arXiv:1611.05113, on embeddings here.
    """
    if len(values) != len(pool):
        raise ValueError(f"carry needs a value for each of the {len(pool)} rows of the pool; got {len(values)}")
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
