"""One partner for each row: the assignment with the largest sum of cosines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from setclip_cli.trust.answers import best_answers

if TYPE_CHECKING:
    from torch import Tensor

DENSE = 16_000_000  # cosines up to which the assignment is exact: 4,000 rows on either side
CANDIDATES = 30  # nearest rows of each row that a larger assignment chooses from
_ABSENT = 10.0  # cost of a row without any of its candidates: more than all that others could gain by it


def assign(left: Tensor, right: Tensor, *, dense: int = DENSE, candidates: int = CANDIDATES) -> Tensor:
    """(min(n, m), 2) int64: pairs of a left and a right row, in the order of the left rows; no row is in two of them.

    The sum of their cosines is as large as it can be. Above ``dense`` cosines, each row has only its nearest candidates
    and those that it is a candidate of; the rows that get none of them are assigned among themselves in the same way.

    Args:
        left: (n, d) unit rows.
        right: (m, d) unit rows.

    Source: Jonker & Volgenant 1987 (Computing 38), dense and sparse, as in scipy.
    """
    if len(left) > len(right):
        pairs = assign(right, left, dense=dense, candidates=candidates).flip(1)
        return pairs[pairs[:, 0].argsort()]
    if len(left) * len(right) <= dense:
        rows, columns = linear_sum_assignment((left @ right.T).numpy(), maximize=True)
        return torch.from_numpy(np.stack([rows, columns], 1).astype(np.int64))
    pairs = _among_candidates(left, right, candidates)
    free = [_without(len(side), taken) for side, taken in zip((left, right), pairs.T, strict=True)]
    if len(free[0]):
        rest = assign(left[free[0]], right[free[1]], dense=dense, candidates=candidates)
        pairs = torch.cat([pairs, torch.stack([free[side][rest[:, side]] for side in (0, 1)], 1)])
    return pairs[pairs[:, 0].argsort()]


def _among_candidates(left: Tensor, right: Tensor, candidates: int) -> Tensor:
    """Pairs of candidates, as many as can be and of the largest sum. A left row without one costs ``_ABSENT``."""
    ahead, back = best_answers(left, right, (1.0, 1.0), candidates)
    rows = np.arange(len(left)).repeat(ahead.rows.shape[1])
    columns = np.arange(len(right)).repeat(back.rows.shape[1])
    pairs = np.concatenate(
        [np.stack([rows, ahead.rows.flatten().numpy()]), np.stack([back.rows.flatten().numpy(), columns])], axis=1
    )
    costs = 2.0 - np.concatenate([ahead.cosines.flatten().numpy(), back.cosines.flatten().numpy()]).astype(np.float64)
    _, first = np.unique(pairs[0] * len(right) + pairs[1], return_index=True)
    own = np.arange(len(left))
    ends = np.concatenate([pairs[:, first], np.stack([own, len(right) + own])], axis=1)
    graph = coo_array(
        (np.concatenate([costs[first], np.full(len(left), _ABSENT)]), ends), (len(left), len(right) + len(left))
    )
    matched, with_whom = min_weight_full_bipartite_matching(graph.tocsr())
    kept = with_whom < len(right)
    return torch.from_numpy(np.stack([matched[kept], with_whom[kept]], 1).astype(np.int64))


def _without(count: int, taken: Tensor) -> Tensor:
    free = torch.ones(count, dtype=torch.bool)
    free[taken] = False
    return free.nonzero().squeeze(1)
