"""Work in threads, with the results in order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
R = TypeVar("R")

PER_TASK = 16  # items: one small file is too little work for a thread


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, *, per_task: int = PER_TASK
) -> Iterator[R]:
    """Maps in threads, ``per_task`` items at a time; yields results in the order of the items, with a limited number in
    work.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    window = workers * 4
    remaining = iter(items)

    def run(batch: list[T]) -> list[R]:
        return [function(item) for item in batch]

    with ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(run, batch) for _ in range(window) if (batch := list(islice(remaining, per_task)))]
        try:
            while pending:
                yield from pending.pop(0).result()
                if batch := list(islice(remaining, per_task)):
                    pending.append(pool.submit(run, batch))
        finally:
            for future in pending:
                future.cancel()
