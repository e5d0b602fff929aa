"""The graph teacher: random walks from each known pair over both pools, and the batch weights that they give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.encoders import GraphMap
from setclip_cli.encoders.graph import diffuse

if TYPE_CHECKING:
    from torch import Tensor


_COLUMNS = 64
_MOST_VALUES = 1 << 28  # of the coordinates of a pool: a GiB


def pair_balance(coordinates: Tensor) -> Tensor:
    """(n,) weights of sum 1 on the CPU. Rows drawn by them lie about equally often near each known pair.

    w_i = mean_j a_ij / Σ_i a_ij, a_ij how much of row i belongs to pair j: the squares of its graph coordinates

    Both pools are known to share the pairs. If one pool holds more of a class than the other, more of its rows belong
    to the pairs of that class, and each of these rows is drawn less often. So the batches of both sides hold much the
    same mix of classes, as the density terms and the matching of the teacher assume.

    Args:
        coordinates: (n, b) unit rows from ``GraphMap.coordinates``.

    Source: importance weights for label shift, Lipton et al. 2018, arXiv:1802.03916; here walks from the pairs replace
        the classifier, and the aim is an equal share for each pair on both sides.
    """
    weights = coordinates.new_zeros(len(coordinates))
    for part in torch.split(coordinates, _COLUMNS, dim=1):  # a few pairs at a time: pools may be large
        belongs = part.square()
        weights += (belongs / belongs.sum(0)).sum(1)
    return (weights / weights.sum()).cpu()


def guiding(rows: int, pairs: int) -> int:
    """How many of the known pairs are walked from: all, unless the coordinates of the larger pool would pass a GiB.

    With so many pairs the other terms know as much as the walks (benchmarks/results.md).
    """
    return min(pairs, max(1, _MOST_VALUES // rows))


def fit_teacher(
    left_pool: Tensor, right_pool: Tensor, pairs: Tensor, *, neighbours: int | None = None
) -> tuple[GraphMap, GraphMap]:
    """Walks from each pair's item over the graph of its pool. The results of both sides are comparable axis by axis.

    Args:
        left_pool: (n, p) transformed features of one modality, unlabelled.
        right_pool: (m, q) of the other.
        pairs: (b, 2) int64, rows of the two pools that are known partners; b > 0.
        neighbours: Number of neighbours of each row in the graphs; None for ``graph.neighbours_in`` the pool.

    Returns:
        A ``GraphMap`` for each side: ``coordinates()`` are the (n, b), (m, b) coordinates of the pool rows, calling it
        gives those of any other rows.
    """
    left, right = (
        GraphMap(F.normalize(pool, dim=1), diffuse(pool, sources, neighbours=neighbours))
        for pool, sources in ((left_pool, pairs[:, 0]), (right_pool, pairs[:, 1]))
    )
    return left, right


def teacher_coordinates(
    left_pool: Tensor, right_pool: Tensor, pairs: Tensor, *, neighbours: int | None = None
) -> tuple[Tensor, Tensor]:
    """The ``coordinates()`` of `fit_teacher`, in half of its memory: large pools and many pairs fill gigabytes."""
    return _coordinates(left_pool, pairs[:, 0], neighbours), _coordinates(right_pool, pairs[:, 1], neighbours)


def _coordinates(pool: Tensor, sources: Tensor, neighbours: int | None) -> Tensor:
    masses = diffuse(pool, sources, neighbours=neighbours).to(pool.device)
    F.normalize(masses.sqrt_(), dim=1, out=masses)
    return masses
