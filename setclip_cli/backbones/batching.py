"""Batches of similar length, within a budget that shrinks when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from setclip_cli.console import note

T = TypeVar("T")


@dataclass
class Budget:
    """What one forward pass may take.

    Attributes:
        tokens: Limit of rows times the length of the longest row, so padding counts; None if rows have one size.
        rows: Limit of rows; None for no limit.
    """

    tokens: int | None = None
    rows: int | None = None

    def map(self, lengths: Sequence[int], forward: Callable[[list[int]], T]) -> Iterator[tuple[list[int], T]]:
        """Runs ``forward`` on batches of positions, longest first, and yields each batch with its result.

        The longest come first, so that a batch that does not fit fails at the start and not at the end. Rows of equal
        length keep their order. A row over the budget is a batch of its own. When memory runs out, the budget is halved
        for good, and only the failed batch is run again.

        Raises:
            torch.OutOfMemoryError: a single row does not fit.
        """
        order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
        start = 0
        while start < len(order):
            longest = max(1, lengths[order[start]])
            batch = order[start : start + self.rows_of(longest)]
            try:
                result = forward(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self._halve(len(batch), longest)
                continue
            yield batch, result
            start += len(batch)

    def rows_of(self, length: int) -> int:
        """How many rows of one length fit, at least 1."""
        limits = [limit for limit in (self.rows, self.tokens and self.tokens // length) if limit is not None]
        return max(1, min(limits, default=1))

    def _halve(self, rows: int, length: int) -> None:
        half = rows // 2
        if self.tokens is not None:
            self.tokens = half * length
        if self.rows is not None:
            self.rows = min(self.rows, half)
        note(f"out of memory with {rows} rows in a batch; going on with {half}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
