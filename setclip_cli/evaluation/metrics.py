"""Retrieval metrics: exact, over the full gallery, with several relevant rows and with ties.

Each metric is its expectation if the rows of a tie class come in random order (McSherry and Najork, ECIR 2008). Two
things follow. The order of the files cannot change a result. A model that gives every row the same score gets exactly
the chance level, which the same functions compute from one tie class that holds the whole gallery.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from setclip_cli.evaluation.metric_names import RECALL_AT
from setclip_cli.evaluation.similarity import similarity_blocks
from setclip_cli.evaluation.ties import TieClasses, chance_classes, tie_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.evaluation.arrays import Embeddings, Floats, Ints
    from setclip_cli.evaluation.relevance import Relevance


HEADLINE_RECALLS = tuple(f"recall_at_{k}" for k in RECALL_AT)
_CLASSES_AT_ONCE = 2**15  # tie classes that are scored together: they fit into the processor's cache


def first_rank(classes: TieClasses) -> Floats:
    """Expected 1-based rank of each query's best relevant row: before + (size + 1) / (relevant + 1)."""
    at = classes.first
    return classes.before[at] + (classes.size[at] + 1) / (classes.relevant[at] + 1)


def recall(classes: TieClasses, k: int) -> Floats:
    """Probability that one of the first k rows is relevant: in [0, 1].

    The recall of the image-text literature, where any of several right answers counts as found. Drawing m of a class of
    n rows of which r are relevant misses them all with probability prod_{i<m} (n - r - i) / (n - i).
    """
    at = classes.first
    before, size, relevant = classes.before[at], classes.size[at], classes.relevant[at]
    drawn = np.clip(k - before, 0, size)
    missed = np.ones(len(at))
    for i in range(min(k, int(drawn.max(initial=0)))):
        missed *= np.where(i < drawn, np.maximum(size - relevant - i, 0) / np.maximum(size - i, 1), 1.0)
    return 1 - missed


def precision(classes: TieClasses, k: int) -> Floats:
    """Expected share of the first k rows that is relevant: in [0, 1]; k beyond the gallery still divides by k."""
    head = classes.within(k)
    taken = np.clip((k - head.before) / head.size, 0, 1)
    return head.sum(head.relevant * taken) / k


def reciprocal_rank(classes: TieClasses) -> Floats:
    """Expected 1 / rank of the best relevant row: in (0, 1].

    P(the first relevant row of a class is at place i) = C(n - i, r - 1) / C(n, r).
    """
    at = classes.first
    triples, inverse = np.unique(
        np.stack([classes.before[at], classes.size[at], classes.relevant[at]], axis=1), axis=0, return_inverse=True
    )
    harmonic = _harmonic(classes.gallery)
    values = np.empty(len(triples))
    lone = triples[:, 2] == 1
    before, size = triples[lone, 0], triples[lone, 1]
    values[lone] = (harmonic[before + size] - harmonic[before]) / size
    for place in np.flatnonzero(~lone):
        start, rows, relevant = (int(value) for value in triples[place])
        places = np.arange(1, rows - relevant + 2)
        steps = (rows - relevant - places[:-1] + 1) / (rows - places[:-1])
        chances = relevant / rows * np.concatenate([[1.0], np.cumprod(steps)])
        values[place] = float((chances / (start + places)).sum())
    return values[inverse.ravel()]


def average_precision(classes: TieClasses) -> Floats:
    """Expected mean, over a query's relevant rows, of the precision at the rank of each: in (0, 1].

    A class of n rows, r relevant, after c rows, R relevant, adds (r / n) sum_{i=1..n} (R + 1 + b (i - 1)) / (c + i)
    with b = (r - 1) / (n - 1). By harmonic numbers H that is (r / n) (b n + (R + 1 - b (c + 1)) (H_{c + n} - H_c)).
    """
    running = np.cumsum(classes.relevant) - classes.relevant
    earlier = running - np.repeat(running[classes.first], np.diff(classes.offsets))
    share = (earlier + 1) / (classes.before + 1)  # of a row that ties with no other: the common case
    tied = np.flatnonzero(classes.size > 1)
    before, size, relevant = classes.before[tied], classes.size[tied], classes.relevant[tied]
    harmonic = _harmonic(classes.gallery)
    slope = (relevant - 1) / (size - 1)
    level = earlier[tied] + 1 - slope * (before + 1)
    share[tied] = relevant / size * (slope * size + level * (harmonic[before + size] - harmonic[before]))
    return classes.sum(share) / classes.sum(classes.relevant)


def ndcg(classes: TieClasses, k: int) -> Floats:
    """Expected discounted cumulative gain of the first k rows, gain 1 if relevant, over the best possible: in [0, 1].

    Discount 1 / log2(1 + rank) (Järvelin and Kekäläinen, TOIS 2002).
    """
    discounts = _discounts(classes.gallery)
    head = classes.within(k)
    low, high = np.minimum(head.before, k), np.minimum(head.before + head.size, k)
    gained = head.sum(head.relevant / head.size * (discounts[high] - discounts[low]))
    best: Floats = discounts[np.minimum(classes.sum(classes.relevant), k).astype(np.int64)]
    return gained / best


@lru_cache(maxsize=4)
def _discounts(n: int) -> Floats:
    """The discounted gain of a ranking that starts with 0 .. n relevant rows."""
    return np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, n + 2)))])


@lru_cache(maxsize=4)
def _harmonic(n: int) -> Floats:
    """H_0 .. H_n."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])


def query_values(classes: TieClasses, recall_at: Sequence[int]) -> dict[str, Floats]:
    """Every metric of every query, (q,) each. Median and mean rank are those of ``first_rank``."""
    return {
        **{f"recall_at_{k}": recall(classes, k) for k in recall_at},
        "map": average_precision(classes),
        "mrr": reciprocal_rank(classes),
        "ndcg_at_10": ndcg(classes, 10),
        "precision_at_1": precision(classes, 1),
        "precision_at_10": precision(classes, 10),
        "first_rank": first_rank(classes),
    }


@dataclass(frozen=True)
class Retrieval:
    """One direction: every query against the whole gallery.

    Attributes:
        queries: (q,) rows of the query table that have a relevant row, ascending.
        values: Metric name -> (q,) value of each query.
        chance: The same for a model that cannot tell any two rows apart.
        gallery: Rows in the gallery, relevant to anything or not.
        unanswered: Queries that are left out because no gallery row is relevant to them.
    """

    queries: Ints
    values: dict[str, Floats]
    chance: dict[str, Floats]
    gallery: int
    unanswered: int


def retrieve(
    queries: Embeddings, gallery: Embeddings, relevance: Relevance, *, recall_at: Sequence[int] = RECALL_AT
) -> Retrieval:
    """Ranks the whole gallery for every query that has an answer, in blocks of queries.

    Args:
        queries: (q, d) unit rows.
        gallery: (n, d) unit rows; equal rows tie exactly.
        relevance: The right answers to each query.
        recall_at: The cutoffs of recall.

    Raises:
        ValueError: the shapes do not fit together, or no query has a right answer.
    """
    if len(queries) != len(relevance.answers) or len(gallery) != relevance.gallery:
        raise ValueError(f"relevance is for {len(relevance.answers)} x {relevance.gallery} rows, got "
                         f"{len(queries)} x {len(gallery)}")  # fmt: skip
    asked = relevance.queries
    if not len(asked):
        raise ValueError("no query has a relevant row")
    parts = []
    few = max(1, _CLASSES_AT_ONCE // int(relevance.counts().max()))
    for start, scores in similarity_blocks(queries[asked], gallery):
        for first in range(0, len(scores), few):
            rows = asked[start + first : start + min(first + few, len(scores))]
            classes = tie_classes(scores[first : first + few], [relevance.of(row) for row in rows])
            parts.append(query_values(classes, recall_at))
    chance = query_values(chance_classes(relevance.counts(), len(gallery)), recall_at)
    values = {name: np.concatenate([part[name] for part in parts]) for name in chance}
    return Retrieval(asked, values, chance, len(gallery), len(queries) - len(asked))


def mean_over_queries(values: dict[str, Floats]) -> dict[str, float]:
    """Means over queries; of the first rank the median and the mean, under their own names."""
    means = {name: float(per_query.mean()) for name, per_query in values.items() if name != "first_rank"}
    ranks = values["first_rank"]
    return {**means, "median_rank": float(np.median(ranks)), "mean_rank": float(ranks.mean())}


def recall_curve(first_ranks: Floats, gallery: int) -> list[tuple[int, float]]:
    """(k, share of queries whose best relevant row is among the first k), for k from 1 to the gallery on a log grid."""
    ordered = np.sort(first_ranks)
    return [(k, float(np.searchsorted(ordered, k, side="right") / len(ordered))) for k in _log_spaced_cutoffs(gallery)]


def chance_curve(positives: Ints, gallery: int) -> list[tuple[int, float]]:
    """The recall curve of random rankings: mean over queries of 1 - C(n - r, k) / C(n, k), r of n rows relevant."""
    relevant, counts = np.unique(positives, return_counts=True)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, gallery + 1)))])
    curve = []
    for k in _log_spaced_cutoffs(gallery):
        left = gallery - relevant - k
        missed = (
            log_factorial[gallery - relevant]
            - log_factorial[np.maximum(left, 0)]
            - (log_factorial[gallery] - log_factorial[gallery - k])
        )
        curve.append((k, float(np.average(np.where(left < 0, 1.0, 1 - np.exp(missed)), weights=counts))))
    return curve


def _log_spaced_cutoffs(gallery: int, points: int = 40) -> list[int]:
    return [int(k) for k in np.unique(np.geomspace(1, max(gallery, 1), points).round())]
