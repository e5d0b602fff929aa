"""Which gallery rows answer which query: by a shared key (label or group) or by listed pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Relevance:
    """Queries with the same answers share one list of them, so labels cost memory linear in the rows.

    Attributes:
        answers: (q,) which entry of ``members`` answers each query; -1 for a query that nothing answers.
        members: Sorted gallery rows, one non-empty array for each distinct set of answers.
        gallery: How many rows the gallery has.
    """

    answers: Ints
    members: list[Ints]
    gallery: int

    @property
    def queries(self) -> Ints:
        """The rows that have an answer: those a metric can be taken over."""
        return np.flatnonzero(self.answers >= 0)

    def counts(self) -> Ints:
        """(queries,) how many gallery rows answer each of ``queries``."""
        sizes = np.array([len(rows) for rows in self.members], np.int64)
        return sizes[self.answers[self.queries]]

    def of(self, query: int) -> Ints:
        """The gallery rows that answer one query; empty when none does."""
        answer = self.answers[query]
        return self.members[answer] if answer >= 0 else np.empty(0, np.int64)


def by_key(query_keys: Sequence[str | None], gallery_keys: Sequence[str | None]) -> Relevance:
    """Relevant means: the same key. A key of None matches nothing, not even another None."""
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(gallery_keys):
        if key is not None:
            rows.setdefault(key, []).append(row)
    places = {key: place for place, key in enumerate(rows)}
    answers = [-1 if key is None else places.get(key, -1) for key in query_keys]
    members = [np.array(found, np.int64) for found in rows.values()]
    return Relevance(np.array(answers, np.int64), members, len(gallery_keys))


def by_pairs(pairs: Iterable[tuple[int, int]], *, queries: int, gallery: int) -> Relevance:
    """Relevant means: listed.

    Args:
        pairs: (query row, gallery row), in any order; a pair listed twice counts once.
        queries: How many query rows there are, listed or not.
        gallery: How many gallery rows there are, listed or not.
    """
    listed: dict[int, set[int]] = {}
    for query, answer in pairs:
        listed.setdefault(query, set()).add(answer)
    answers = np.full(queries, -1, np.int64)
    members = []
    for place, (query, found) in enumerate(sorted(listed.items())):
        answers[query] = place
        members.append(np.array(sorted(found), np.int64))
    return Relevance(answers, members, gallery)
