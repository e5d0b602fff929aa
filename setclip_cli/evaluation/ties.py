"""Tie classes: what a ranking with ties amounts to, read off full rows of scores.

A ranking enters every metric only through its tie classes: gallery rows of equal score that hold at least one right
answer. Each class is described by how many rows score higher, how many rows it has and how many of them are right.

A query with few right answers: the rows that score higher than each of them are counted. With many, as labels give,
each would have to count the whole row, and sorting the row costs several times the dot products that made it. So the
row is split into as many equal buckets of score as it has entries, which keeps their order. Only the buckets that hold
a right answer are sorted; the rows of the other buckets are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from setclip_cli.evaluation.arrays import Floats, Ints

    Scores = npt.NDArray[np.float32]
    Keys = npt.NDArray[np.int32]

_FEW_POSITIVES = 8  # up to this number, counting the higher scores of each is cheaper than buckets
_BUCKETS_PER_ROW = 1.5  # more buckets leave less to sort and more to add up
_LEAST_RANGE = np.float32(2**-20)  # of the scores of a row, against division by zero


@dataclass(frozen=True)
class TieClasses:
    """The tie classes with a relevant row, of many queries; within a query the best class is first.

    Attributes:
        offsets: (q + 1,) classes ``offsets[i]:offsets[i + 1]`` belong to query i; every query has at least one.
        before: (t,) rows that score higher than the class.
        size: (t,) rows in the class.
        relevant: (t,) relevant rows in the class, at least 1.
        gallery: Rows in the gallery.
    """

    offsets: Ints
    before: Ints
    size: Ints
    relevant: Ints
    gallery: int

    @property
    def first(self) -> Ints:
        """The best class of each query."""
        return self.offsets[:-1]

    def sum(self, values: Floats | Ints) -> Floats:
        """Sums one value per class over each query: (t,) -> (q,)."""
        return np.add.reduceat(np.asarray(values, np.float64), self.first)

    def within(self, k: int) -> TieClasses:
        """Only the classes that reach into the first k rows, and each query's best one."""
        chosen = self.before < k
        chosen[self.first] = True
        at = np.flatnonzero(chosen)
        return TieClasses(
            np.searchsorted(at, self.offsets), self.before[at], self.size[at], self.relevant[at], self.gallery
        )


def tie_classes(scores: Scores, positives: Sequence[Ints]) -> TieClasses:
    """Reads the tie classes off full rows of scores.

    Args:
        scores: (q, n) cosine of each query to each gallery row, float32; higher is better.
        positives: For each query its distinct relevant gallery rows, at least one.

    Raises:
        ValueError: a query has no relevant row, scores and positives differ in length, or scores are not cosines.
    """
    if len(scores) != len(positives) or not all(len(rows) for rows in positives):
        raise ValueError(f"{len(scores)} rows of scores need as many non-empty lists of positives")
    relevant = np.zeros(scores.shape[1], bool)  # scratch space: marks the positives of one query at a time
    parts = [_of_row(row, found, relevant) for row, found in zip(scores, positives, strict=True)]
    before, size, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    offsets = np.cumsum([0, *(len(part[0]) for part in parts)])
    return TieClasses(offsets, before, size, counts, scores.shape[1])


def chance_classes(positives: Ints, gallery: int) -> TieClasses:
    """The tie classes of a model that cannot tell any two rows apart.

    Args:
        positives: (q,) relevant rows of each query.
        gallery: Rows in the gallery.
    """
    queries = len(positives)
    return TieClasses(
        np.arange(queries + 1),
        np.zeros(queries, np.int64),
        np.full(queries, gallery),
        positives.astype(np.int64),
        gallery,
    )


def _of_row(scores: Scores, positives: Ints, relevant: npt.NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
    """(before, size, relevant) of one query's tie classes, best first; ``relevant`` is all False before and after."""
    if len(positives) <= _FEW_POSITIVES:
        return _by_counting(scores, positives)
    relevant[positives] = True
    found = _by_buckets(scores, positives, relevant)
    relevant[positives] = False
    return found


def _by_counting(scores: Scores, positives: Ints) -> tuple[Ints, Ints, Ints]:
    if len(positives) == 1:
        values, counts = scores[positives], np.ones(1, np.int64)
    else:
        ascending, counts = np.unique(scores[positives], return_counts=True)
        values, counts = ascending[::-1], counts[::-1].astype(np.int64)
    before = np.array([np.count_nonzero(scores > value) for value in values])
    through = np.array([np.count_nonzero(scores >= value) for value in values])
    return before.astype(np.int64), (through - before).astype(np.int64), counts


def _by_buckets(scores: Scores, positives: Ints, relevant: npt.NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
    buckets = int(_BUCKETS_PER_ROW * len(scores))
    low, high = scores.min(), scores.max()
    if not (low > -2 and high < 2):
        raise ValueError(f"scores must be cosines, got {low} to {high}")
    scale = np.float32(buckets) / np.maximum(high - low, _LEAST_RANGE)
    of = _bucket(scores, low, scale)
    counts = np.bincount(of, minlength=buckets + 1)
    answered = np.zeros(len(counts), bool)
    answered[of.take(positives)] = True
    kept = np.flatnonzero(answered.take(of))
    ordered = _flagged(scores.take(kept), relevant.take(kept))
    ordered.sort()
    counts *= ~answered
    dropped_through = np.cumsum(counts)  # rows that were only counted, in this bucket and in those below

    places = np.flatnonzero((ordered & 1).astype(bool))
    keys = ordered[places]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    first, last = places[starts], places[np.append(starts[1:], len(places)) - 1]
    keys = keys[starts]
    begin = first.copy()
    others = keys - 1  # rows of the same score that are not relevant: they are sorted just before
    mixed = np.flatnonzero(ordered[np.maximum(first - 1, 0)] == others)
    begin[mixed] = np.searchsorted(ordered, others[mixed])
    lower = begin + dropped_through[_bucket(_unflagged(keys), low, scale)]
    size = last - begin + 1
    before = len(scores) - lower - size
    return before[::-1], size[::-1], (last - first + 1)[::-1]


def _bucket(scores: Scores, low: np.float32, scale: np.float32) -> Ints:
    """A bucket number that never falls when the score rises: every step rounds, and rounding keeps order."""
    offset = scores - low
    offset *= scale
    return offset.astype(np.int64)


def _flagged(scores: Scores, flags: npt.NDArray[np.bool_]) -> Keys:
    """Scores and flags in one integer that sorts by score, then flag.

    The bits of floats sort as integers once those of negative floats are reversed. Below 2 the highest bit of the
    exponent is never set, which leaves room for the flag.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # -0 becomes 0, which it equals
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    bits <<= 1
    bits |= flags
    return bits


def _unflagged(keys: Keys) -> Scores:
    bits = keys >> 1
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    return bits.view(np.float32)
