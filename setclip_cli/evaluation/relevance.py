"""Which gallery rows are right answers to which query: by a shared key (label or group) or by listed pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from setclip_cli.evaluation.arrays import Ints


@dataclass(frozen=True)
class Relevance:
    """The right answers to each query. Queries with the same answers share one list, so memory is linear in the rows.

    Attributes:
        answers: (q,) for each query the entry of ``members`` that holds its right answers; -1 if it has none.
        members: Sorted gallery rows, one non-empty array for each distinct set of right answers.
        gallery: How many rows the gallery has.
    """

    answers: Ints
    members: list[Ints]
    gallery: int

    @property
    def queries(self) -> Ints:
        """The query rows that have a right answer; metrics are means over them."""
        return np.flatnonzero(self.answers >= 0)

    def counts(self) -> Ints:
        """(queries,) how many right answers each of ``queries`` has."""
        sizes = np.array([len(rows) for rows in self.members], np.int64)
        return sizes[self.answers[self.queries]]

    def of(self, query: int) -> Ints:
        """The right answers to one query, as gallery rows; may be empty."""
        answer = self.answers[query]
        return self.members[answer] if answer >= 0 else np.empty(0, np.int64)


def relevance_by_key(query_keys: Sequence[str | None], gallery_keys: Sequence[str | None]) -> Relevance:
    """A right answer has the same key. A key of None matches nothing, not even another None."""
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(gallery_keys):
        if key is not None:
            rows.setdefault(key, []).append(row)
    places = {key: place for place, key in enumerate(rows)}
    answers = [-1 if key is None else places.get(key, -1) for key in query_keys]
    members = [np.array(found, np.int64) for found in rows.values()]
    return Relevance(np.array(answers, np.int64), members, len(gallery_keys))


def relevance_by_pairs(pairs: Iterable[tuple[int, int]], *, queries: int, gallery: int) -> Relevance:
    """A right answer is listed.

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
