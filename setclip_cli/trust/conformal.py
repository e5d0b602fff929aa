"""Split-conformal sets: the rows among which a query's partner is, with a stated coverage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_ROUNDING = 1e-9


def threshold(
    scores: Sequence[float], items: Sequence[int], coverage: float, *, with_the_new_item: bool = True
) -> float:
    """The score from which on a row belongs to the set, so that the set holds a new partner with this coverage.

    Each of the K known items has the weight 1 / (K + 1), shared evenly by its pairs; the new item has the last one. The
    threshold is the largest score at which pairs of at least ``coverage`` of all weight are at or above it. If the new
    item is exchangeable with the known ones, whatever their numbers of pairs, a partner of it is in the set with at
    least this probability, and with at most 1 / (K + 1) more if there are no ties.

    Args:
        scores: Of the partner of each known pair, higher is nearer, by encoders that have not seen the pair.
        items: For each pair the number of its item.
        coverage: In (0, 1).
        with_the_new_item: Without it, the known items have all of the weight. The coverage is then right on average
            if the scores are a little worse than those of new items will be, as by encoders that saw fewer pairs.

    Returns:
        Minus infinity, with which every row belongs to the set, if there are too few items for this coverage.

    Sources: split-conformal prediction, Vovk et al. 2005 (Algorithmic Learning in a Random World) and Lei et al. 2018,
        arXiv:1604.04173; with items of several pairs, Lee, Barber & Willett 2023, arXiv:2306.06342.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage needs a number between 0 and 1; got {coverage}")
    values = np.asarray(scores, np.float64)
    if not len(values):
        return -math.inf
    weights = item_weights(items)
    if not with_the_new_item:
        weights /= weights.sum()
    order = np.argsort(-values, kind="stable")
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, coverage - _ROUNDING))
    return float(values[order[place]]) if place < len(values) else -math.inf


def item_weights(items: Sequence[int]) -> npt.NDArray[np.float64]:
    """(b,) 1 / (K + 1) for each of the K items, shared evenly by its pairs."""
    _, place, counts = np.unique(np.asarray(items), return_inverse=True, return_counts=True)
    weights: npt.NDArray[np.float64] = 1 / (counts[place] * (len(counts) + 1.0))
    return weights
