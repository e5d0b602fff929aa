"""Batches of similar length within a budget that shrinks when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from setclip_cli.console import note

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

T = TypeVar("T")


@dataclass
class Budget:
    """What one forward pass may take.

    Attributes:
        tokens: Rows times the longest row, so padding counts; None where rows have one size.
        rows: At most so many rows; None for no such limit.
    """

    tokens: int | None = None
    rows: int | None = None

    def map(self, lengths: Sequence[int], forward: Callable[[list[int]], T]) -> Iterator[tuple[list[int], T]]:
        """Runs ``forward`` on batches of positions, longest first, and yields each batch with its result.

        Longest first, so that what does not fit fails at once and not in the last minute. Equal lengths keep their
        order, so equal lengths give equal batches. A row over the budget is a batch of its own. When memory runs out,
        the budget is halved for good and only the failed batch is run again.

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


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Runs matrix products in ``precision``; float32 leaves everything as it is."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def tf32(device: torch.device, wanted: bool) -> AbstractContextManager[object]:
    """Runs float32 matrix products in TensorFloat-32 on a CUDA GPU; elsewhere, or unwanted, leaves them as they are."""
    return _tf32() if wanted and device.type == "cuda" else nullcontext()


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def staged(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor bound for ``device``: in pinned memory for a CUDA GPU, so that nobody waits for the copy."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
