"""The base of all readers, which makes sure that none loses a record: each item of a walk has its answers."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from setclip_cli.errors import AccountingError
from setclip_cli.ingest.sources.base import stamp
from setclip_cli.ingest.sources.threads import ordered_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from setclip_cli.ingest.sources.base import FileStamp, Item, Record, Reject, Walk


class Reader:
    """A source whose records come from its ``walk``. It is one file, unless the reader has its own ``files``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> Sequence[FileStamp]:
        return [stamp(self.path)]

    def records(self, start: int, workers: int) -> Iterator[Record | Reject]:
        return accounted(self.walk(), self.path, start, workers)

    def notes(self) -> list[str]:
        """How the source was read, if its suffix does not say it; for the summary."""
        return []

    def walk(self) -> Walk:
        """A new pass over the source, from its first item."""
        raise NotImplementedError


def accounted(walk: Walk, path: Path, start: int, workers: int) -> Iterator[Record | Reject]:
    """Yields the answers to all items of a walk, from answer number ``start`` on.

    Raises:
        AccountingError: an item has fewer answers than it holds, or the walk did not meet as many items as the source
            states. This is a mistake of the reader, and never one of the file.
        SetClipError: what the reader raises; the source cannot be read to its end.
    """
    return _one_each(walk, path, start, workers) if walk.one_each else _any_number(walk, path, start)


def _any_number(walk: Walk, path: Path, start: int) -> Iterator[Record | Reject]:
    answers, walked, to_skip = walk.answers, 0, start
    for item in walk.items:
        walked += 1
        count = 0
        for answer in answers(item):
            count += 1
            if to_skip:
                to_skip -= 1
            else:
                yield answer
        if count < item.holds:
            raise _unanswered(path, item, count)
    _compare(walk, path, walked)


def _one_each(walk: Walk, path: Path, start: int, workers: int) -> Iterator[Record | Reject]:
    walked = 0

    def counted(items: Iterable[Item]) -> Iterator[Item]:
        nonlocal walked
        for item in items:
            walked += 1
            yield item

    def answer(item: Item) -> Record | Reject:
        found = list(walk.answers(item))
        if len(found) != 1 or item.holds > 1:
            raise _unanswered(path, item, len(found))
        return found[0]

    yield from ordered_map(answer, islice(counted(walk.items), start, None), workers, per_task=walk.per_task)
    _compare(walk, path, walked)


def _unanswered(path: Path, item: Item, count: int) -> AccountingError:
    return AccountingError(
        f"{path}: {item.location}: holds {item.holds:,} records, but the reader gave {count:,} answers"
    )


def _compare(walk: Walk, path: Path, walked: int) -> None:
    stated = walk.stated()
    if stated is not None and stated != walked:
        raise AccountingError(f"{path}: holds {stated:,} items, but the reader met {walked:,}")
