"""Batches of similar length, so that little of a batch is padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def token_budget_batches(lengths: Sequence[int], tokens: int, rows: int | None = None) -> Iterator[list[int]]:
    """Splits positions into batches, longest first, whose padded size stays within ``tokens``.

    Longest first, so that a batch that does not fit in memory fails at once and not in the last minute. Equal lengths
    keep their order, so the same lengths give the same batches. A single item over the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    start = 0
    while start < len(order):
        count = max(1, tokens // max(1, lengths[order[start]]))
        count = count if rows is None else min(count, rows)
        yield order[start : start + count]
        start += count
