"""Decides about whole blocks of vectors. What is decided is what `Dedup.decide` says of each row in turn.

A row is plain if it and all before it in its block are of the usual kind: its id and its content are new, and its split
is known. Runs of plain rows are taken at once; `Dedup.decide` is asked about every other row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from setclip_cli.ingest.dedup import DUPLICATE, LONGER_ID, Kept, draw_key, joined_id
from setclip_cli.ingest.known_vectors import Mask, first_of, grouped_key, keys_of_digests, keys_of_ids
from setclip_cli.ingest.sources.base import Reject, usable_id
from setclip_cli.ingest.sources.vectors.rows import DIGEST_BYTES, Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from setclip_cli.ingest.dedup import Dedup, KeepRules
    from setclip_cli.ingest.known_vectors import KnownVectors


class KeptRows(NamedTuple):
    """Rows that are kept.

    Attributes:
        rows: Without any that is a reject.
        splits: One for each row.
        ids: Those under which they are kept.
        grouped: What tells that its group has its content, for each row with a group.
        repairs: What was changed of each row; None if nothing was.
    """

    rows: Rows
    splits: list[str]
    ids: list[str]
    grouped: list[bytes | None]
    repairs: list[tuple[str, ...]] | None


Decided: TypeAlias = "KeptRows | Kept | Reject"


def decide_rows(dedup: Dedup, known: KnownVectors, rows: Rows, rules: KeepRules) -> Iterator[Decided]:
    """Yields what is decided about the rows, in their order."""
    start = 0
    while start < len(rows):
        rest = rows.cut(start, len(rows)) if start else rows
        plan = _Plan(dedup, known, rest, rules)
        place = 0
        while place < len(rest):
            if end := plan.end_of_run(place):
                yield plan.take(place, end)
                place = end
                continue
            splits = dedup.splits
            decision = plan.one(place)
            yield decision
            place += 1
            if dedup.splits != splits:
                break  # rows of this split are plain from here on
        start += place


def _repairs(rows: Rows, ids: Sequence[str], rules: KeepRules) -> list[tuple[str, ...]] | None:
    """What was changed of each row; None if nothing was.

    Args:
        ids: Those under which the rows are kept.
    """
    of_file = rules.file_split
    by_file: tuple[str, ...] = ()
    if rules.rule.as_source and of_file.why:
        by_file = (f"put into split {of_file.split or 'train'}, {of_file.why}",)
    longer = list(map(str.__ne__, ids, rows.ids))
    if not by_file and not any(longer):
        return None
    return [
        ((LONGER_ID,) if longer[row] else ()) + (by_file if rows.splits is None or rows.splits[row] is None else ())
        for row in range(len(rows))
    ]


class _Plan:
    """What is plain among rows, as far as the rows before them say it."""

    def __init__(self, dedup: Dedup, known: KnownVectors, rows: Rows, rules: KeepRules) -> None:
        self._dedup, self._known, self._rows, self._rules = dedup, known, rows, rules
        self._contents = keys_of_digests(rows.digests, DIGEST_BYTES)
        self._id_keys = keys_of_ids(rows.ids)
        self._ids = list(rows.ids)
        self._known_content: Mask = known.split_of.index.find(self._contents) >= 0
        bad = np.zeros(len(rows), bool)
        bad[list(rows.reasons)] = True
        usual = ~bad & ~self._known_content & first_of(self._contents)
        taken: Mask = known.ids.index.find(self._id_keys) >= 0
        if rows.made_up and taken.any() and rules.sources:
            taken = self._with_longer_ids(usual & taken, taken)
        usual &= ~taken & first_of(self._id_keys)
        self._splits = [self._split_of(row) for row in range(len(rows))] if not self._one_split else None
        if self._splits is not None:
            known_splits = dedup.splits & set(self._splits)
            if len(known_splits) < len(set(self._splits)):
                usual &= np.fromiter((split in known_splits for split in self._splits), bool, len(rows))
        elif self._split_of(0) not in dedup.splits:
            usual[:] = False
        self._usual = usual
        self._unusual = np.flatnonzero(~usual)

    @property
    def _one_split(self) -> bool:
        """Whether all rows have one split, whatever is in them."""
        return not self._rules.rule.shares and (self._rules.rule.fixed is not None or self._rows.splits is None)

    def _split_of(self, row: int) -> str:
        rule, rows = self._rules.rule, self._rows
        if rule.fixed is not None:
            return rule.fixed
        if rule.shares:
            return rule.draw(draw_key(rows.without_vector(row), self._rules))
        given = rows.splits[row] if rows.splits is not None else None
        of_file = self._rules.file_split.split if rule.as_source else None
        return given or of_file or "train"

    def _with_longer_ids(self, wanted: Mask, taken: Mask) -> Mask:
        """Gives made-up ids that are taken their source's name in front; says which rows still have a taken id."""
        places = np.flatnonzero(wanted)
        longer = [joined_id(self._rules.sources[0], self._rows.ids[row]) for row in places.tolist()]
        keys = keys_of_ids(longer)
        usable = np.fromiter((usable_id(each) is None for each in longer), bool, len(longer))
        free: Mask = usable & (self._known.ids.index.find(keys) < 0)  # no row of the block itself has such an id
        still = taken.copy()
        still[places[free]] = False
        self._id_keys[places[free]] = keys[free]
        for row, each in zip(places[free].tolist(), np.flatnonzero(free).tolist(), strict=True):
            self._ids[row] = longer[each]
        return still

    def end_of_run(self, place: int) -> int:
        """Where the run of plain rows ends that begins at a place; 0 if the row there is not plain."""
        if not self._usual[place]:
            return 0
        after = np.searchsorted(self._unusual, place)
        return int(self._unusual[after]) if after < len(self._unusual) else len(self._rows)

    def take(self, start: int, end: int) -> KeptRows:
        """Keeps the plain rows from ``start`` up to ``end``, and remembers them."""
        rows, known = self._rows.cut(start, end), self._known
        splits = self._splits[start:end] if self._splits is not None else [self._split_of(0)] * len(rows)
        known.ids.index.add(self._id_keys[start:end], np.zeros(len(rows), np.int16))
        known.know_rows(self._contents[start:end], splits)
        grouped: list[bytes | None] = [None] * len(rows)
        if rows.groups is not None:
            pairs = zip(range(start, end), rows.groups, strict=True)
            grouped = [None if group is None else grouped_key(self._digest(row), group) for row, group in pairs]
            known.know_groups([key for key in grouped if key is not None])
        ids = self._ids[start:end]
        return KeptRows(rows, splits, ids, grouped, _repairs(rows, ids, self._rules))

    def _digest(self, row: int) -> bytes:
        return self._rows.digests[row * DIGEST_BYTES : row * DIGEST_BYTES + 16]

    def one(self, place: int) -> Kept | Reject:
        """Decides about one row that is not plain."""
        rows = self._rows
        group = rows.groups[place] if rows.groups is not None else None
        known_before = self._known_content[place] and group is None and not self._rules.keep_duplicates
        if known_before and place not in rows.reasons:
            return Reject(rows.ids[place], DUPLICATE, bad=False)
        record = rows.one(place)
        return record if isinstance(record, Reject) else self._dedup.decide(record, self._rules)
