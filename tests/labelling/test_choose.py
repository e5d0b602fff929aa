"""Which items are suggested: spread over the pool, typical, never known ones, whatever the order of the rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.labelling.choose import choose_rows

PLACES = 8


def clusters(rows: int = 40, width: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows around ``PLACES`` far points, more around the first than around the last, and which is whose."""
    random = torch.Generator().manual_seed(seed)
    owner = torch.arange(PLACES).repeat_interleave(torch.arange(rows + PLACES, rows, -1))
    centres = F.normalize(torch.randn(PLACES, width, generator=random), dim=1)
    return centres[owner] + 0.15 * torch.randn(len(owner), width, generator=random) / width**0.5, owner


def taken(rows: Tensor, count: int, **given: object) -> list[int]:
    return [row for row, _ in choose_rows(rows, count, seed=0, **given)]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_one_item_of_each_cluster_the_largest_first(seed: int) -> None:
    rows, owner = clusters(seed=seed)
    chosen = choose_rows(rows, PLACES, seed=seed)
    assert sorted(owner[[row for row, _ in chosen]].tolist()) == list(range(PLACES))
    sizes = [stands_for for _, stands_for in chosen]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes == owner.bincount()[owner[[row for row, _ in chosen]]].tolist()


def test_the_item_is_typical_of_its_cluster() -> None:
    rows, owner = clusters()
    unit = F.normalize(rows, dim=1)
    for row in taken(rows, PLACES):
        members = torch.nonzero(owner == owner[row]).squeeze(1)
        likeness = unit[members] @ F.normalize(unit[members].mean(0), dim=0)
        assert row == int(members[likeness.argmax()])


def test_an_odd_one_out_is_not_taken() -> None:
    rows, _ = clusters()
    odd = torch.cat([rows, F.normalize(torch.randn(1, rows.shape[1]), dim=1)])
    assert len(rows) not in taken(odd, PLACES)


def test_what_known_items_cover_is_not_asked_again() -> None:
    rows, owner = clusters()
    known = [int(torch.nonzero(owner == place)[3]) for place in (0, 2, 5)]
    chosen = taken(rows, PLACES - 3, known=known, exclude=known)
    assert sorted(owner[chosen].tolist()) == [1, 3, 4, 6, 7]


def test_rows_that_are_excluded_are_not_taken_and_cover_nothing() -> None:
    rows, owner = clusters()
    first = taken(rows, PLACES)
    second = taken(rows, PLACES, exclude=first)
    assert not set(first) & set(second)
    assert sorted(owner[second].tolist()) == list(range(PLACES))


@pytest.mark.parametrize("count", [1, 5, 8, 30, 500])
def test_as_many_as_are_asked_for_each_once_up_to_all_that_are_left(count: int) -> None:
    rows, _ = clusters(rows=10)
    known = [0, 1, 2]
    chosen = taken(rows, count, known=known, exclude=known)
    assert len(chosen) == len(set(chosen)) == min(count, len(rows) - 3)
    assert not set(chosen) & set(known)


def test_equal_rows_and_rows_of_zeros_do_not_stop_it() -> None:
    assert len(taken(torch.ones(9, 4), 3)) == 3
    assert len(taken(torch.zeros(9, 4), 3)) == 3
    assert taken(torch.zeros(0, 4), 3) == []


def test_the_same_seed_gives_the_same_items() -> None:
    rows = torch.randn(300, 10, generator=torch.Generator().manual_seed(1))
    assert choose_rows(rows, 20, seed=3) == choose_rows(rows, 20, seed=3)
    assert choose_rows(rows, 20, seed=3) != choose_rows(rows, 20, seed=4)


def test_ten_thousand_known_rows_make_no_more_clusters_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setclip_cli.labelling.choose.KNOWN", 5)
    rows, owner = clusters()
    known = torch.nonzero(owner < PLACES - 1).squeeze(1).tolist()
    assert set(owner[taken(rows, 3, known=known, exclude=known)].tolist()) == {PLACES - 1}


def test_a_pool_larger_than_the_sample_is_covered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setclip_cli.labelling.choose.ROWS", 120)
    rows, owner = clusters()
    chosen = choose_rows(rows, PLACES, seed=0)
    assert sorted(owner[[row for row, _ in chosen]].tolist()) == list(range(PLACES))
    assert sum(stands_for for _, stands_for in chosen) == len(rows)
