"""The graph that nearest neighbours make of an unlabelled pool, and random walks on it.

A walk that starts at the known item of each pair, and returns there now and then, says which pair every pool row is
nearest to *along the data*. The same walk in the other modality gives coordinates that are comparable axis by axis.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from setclip_cli.neighbours import nearest_neighbours

NEIGHBOURS = 15
TEMPERATURE = 0.1
STAY = 0.9  # share of a walk that moves on at each step; 0.99 forgets where it came from
STEPS = 30  # 0.9^30 = 4% of the walk is still on its first trip
_FLOOR = 1e-6  # of the mean mass: a row that no walk reaches becomes equally near to every pair
_COLUMNS = 64  # walks taken together: what a step needs beside the result is that wide


def diffuse(
    pool: Tensor,
    sources: Tensor,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    stay: float = STAY,
    steps: int = STEPS,
) -> Tensor:
    """Random walks with restart from each source over the k-nearest-neighbour graph of a pool.

    Z <- stay · D^-½ A D^-½ Z + (1 - stay) Y; A_ij = exp(cos(x_i, x_j) / temperature) on the symmetrised graph

    Args:
        pool: (n, p) features of one modality, unlabelled.
        sources: (c,) int64 pool rows; the same row may come up more than once.
        neighbours, temperature, stay, steps: the walk.

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


def _graph(pool: Tensor, neighbours: int, temperature: float) -> sparse.csr_matrix:
    """D^-½ A D^-½ of the symmetrised k-nearest-neighbour graph, float32."""
    n = len(pool)
    rows, cosines = nearest_neighbours(pool, pool, neighbours, skip_self=True)
    weights = torch.exp((cosines - 1) / temperature).cpu().numpy()  # the -1 cancels in the normalisation
    columns = rows.cpu().numpy()
    entries = (weights.ravel(), (np.repeat(np.arange(n), columns.shape[1]), columns.ravel()))
    adjacency = sparse.csr_matrix(entries, shape=(n, n), dtype=np.float32)
    adjacency = adjacency.maximum(adjacency.T)
    degree = np.asarray(adjacency.sum(1)).ravel()
    scale = sparse.diags(1 / np.sqrt(np.maximum(degree, 1e-12)), dtype=np.float32)
    return sparse.csr_matrix(scale @ adjacency @ scale)
