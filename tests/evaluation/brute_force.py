"""The metrics once more, as a reader would check them by hand: every order of every tie, plain loops, no arrays."""

from __future__ import annotations

import math
from itertools import permutations, product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def orders(scores: Sequence[float]) -> Iterator[list[int]]:
    """Every order of the rows that a sort by score could give."""
    levels = [
        [row for row, score in enumerate(scores) if score == level] for level in sorted(set(scores), reverse=True)
    ]
    for parts in product(*(permutations(level) for level in levels)):
        yield [row for part in parts for row in part]


def of_one_order(order: Sequence[int], positives: set[int]) -> dict[str, float]:
    ranks = [rank for rank, row in enumerate(order, start=1) if row in positives]
    gains = [1 / math.log2(1 + rank) for rank in ranks if rank <= 10]
    ideal = [1 / math.log2(1 + rank) for rank in range(1, min(10, len(positives)) + 1)]
    return {
        **{f"recall_at_{k}": float(ranks[0] <= k) for k in (1, 5, 10)},
        "map": sum(found / rank for found, rank in enumerate(ranks, start=1)) / len(ranks),
        "mrr": 1 / ranks[0],
        "ndcg_at_10": sum(gains) / sum(ideal),
        "precision_at_1": sum(rank <= 1 for rank in ranks),
        "precision_at_10": sum(rank <= 10 for rank in ranks) / 10,
        "first_rank": ranks[0],
    }


def expected(scores: Sequence[float], positives: set[int]) -> dict[str, float]:
    """The mean of each metric over all orders of the ties."""
    found = [of_one_order(order, positives) for order in orders(scores)]
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}
