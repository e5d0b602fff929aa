"""A reader that loses something is stopped: every item has its answers, and all items are met."""

from __future__ import annotations

from pathlib import Path

import pytest

from setclip_cli.errors import AccountingError
from setclip_cli.ingest.sources.base import Item, Reject, Walk
from setclip_cli.ingest.sources.reader import Reader

ITEMS = [Item("item 1", ["a"]), Item("item 2", ["b", "c"], holds=2), Item("item 3", [Reject("item 3", "no")])]


class Listed(Reader):
    """Answers with what the items hold."""

    def __init__(self, *items: Item, stated: int | None = None, one_each: bool = False) -> None:
        super().__init__(Path("x"))
        self._items, self._stated, self._one_each = items, stated, one_each

    def walk(self) -> Walk:
        return Walk(self._items, lambda item: item.content, lambda: self._stated, one_each=self._one_each)


def test_all_answers_come_in_order_from_any_start() -> None:
    answers = list(Listed(*ITEMS, stated=3).records(0, 1))
    assert answers == ["a", "b", "c", Reject("item 3", "no")]
    assert [list(Listed(*ITEMS, stated=3).records(start, 1)) for start in range(6)] == [
        answers[start:] for start in range(6)
    ]


@pytest.mark.parametrize("one_each", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_item_without_an_answer_stops_the_reader(one_each: bool, workers: int) -> None:
    with pytest.raises(AccountingError, match="x: item 2: holds 1 records, but the reader gave 0 answers"):
        list(Listed(Item("item 1", "a"), Item("item 2", ""), one_each=one_each).records(0, workers))


def test_an_item_with_fewer_answers_than_it_holds_stops_the_reader() -> None:
    with pytest.raises(AccountingError, match="item 1: holds 3 records, but the reader gave 2 answers"):
        list(Listed(Item("item 1", "ab", holds=3)).records(0, 1))


@pytest.mark.parametrize("stated", [2, 4])
@pytest.mark.parametrize("one_each", [False, True])
@pytest.mark.parametrize("start", [0, 2])
def test_a_walk_that_misses_an_item_stops_the_reader(stated: int, one_each: bool, start: int) -> None:
    items = [Item(f"item {number}", "a") for number in range(3)]
    with pytest.raises(AccountingError, match=f"holds {stated} items, but the reader met 3"):
        list(Listed(*items, stated=stated, one_each=one_each).records(start, 1))


def test_a_second_answer_where_each_item_has_one_stops_the_reader() -> None:
    """A resumed run would skip the wrong number of items."""
    with pytest.raises(AccountingError, match="gave 2 answers"):
        list(Listed(Item("item 1", "ab"), one_each=True).records(0, 1))
