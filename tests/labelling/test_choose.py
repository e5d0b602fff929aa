"""Which items are suggested: spread over the pool, typical, never known ones, whatever the order of the rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.labelling.choose import LIKENESS, NOISE, choose_rows

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
def test_one_item_of_each_cluster_which_stands_for_all_of_it(seed: int) -> None:
    rows, owner = clusters(seed=seed)
    chosen = choose_rows(rows, PLACES, seed=seed)
    places = owner[[row for row, _ in chosen]]
    assert sorted(places.tolist()) == list(range(PLACES))
    assert [stands_for for _, stands_for in chosen] == owner.bincount()[places].tolist()


def test_a_large_cluster_comes_before_a_small_one() -> None:
    rows, owner = clusters(rows=12)
    many = torch.cat([rows, rows[owner == 5] + 0.01, rows[owner == 5] - 0.01])
    first = taken(many, 1)[0]
    assert first >= len(rows) or owner[first] == 5


def test_the_first_item_is_typical() -> None:
    random = torch.Generator().manual_seed(7)
    rows = torch.ones(1, 8) + torch.randn(200, 8, generator=random)
    unit = F.normalize(rows, dim=1)
    likeness = unit @ F.normalize(unit.mean(0), dim=0)
    assert float(likeness[taken(rows, 1)]) > float(likeness.quantile(0.9))


def unknown(rows: Tensor, answered: list[int], weights: Tensor | None = None) -> float:
    """The mean variance of a Gaussian process, from one system of equations."""
    unit = F.normalize(rows, dim=1).double()
    kernel = ((unit @ unit.T - 1) / LIKENESS).exp()
    across = kernel[answered]
    own = kernel[answered][:, answered] + NOISE * torch.eye(len(answered), dtype=torch.float64)
    left = 1 - (across * torch.linalg.solve(own, across)).sum(0)
    return float((left if weights is None else left * weights / weights.mean()).mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_each_item_leaves_less_unknown_than_any_other_would(weighted: bool) -> None:
    random = torch.Generator().manual_seed(5)
    rows = torch.randn(50, 6, generator=random)
    weights = torch.rand(50, generator=random) if weighted else None
    answered = [3, 17]
    chosen = taken(rows, 6, known=answered, weights=weights)
    for row in chosen:
        others = [unknown(rows, [*answered, other], weights) for other in range(50) if other not in answered]
        assert unknown(rows, [*answered, row], weights) == pytest.approx(min(others), abs=1e-5)
        answered.append(row)


def test_rows_that_count_more_decide() -> None:
    rows, owner = clusters()
    weights = torch.where(owner == 6, 1.0, 0.01)
    assert int(owner[taken(rows, 1, weights=weights)[0]]) == 6


def test_an_odd_one_out_is_not_taken() -> None:
    rows, _ = clusters()
    odd = torch.cat([rows, F.normalize(torch.randn(1, rows.shape[1]), dim=1)])
    assert len(rows) not in taken(odd, PLACES)


def test_what_known_items_cover_is_not_asked_again() -> None:
    rows, owner = clusters()
    known = [int(torch.nonzero(owner == place)[3]) for place in (0, 2, 5)]
    chosen = taken(rows, PLACES - 3, known=known)
    assert sorted(owner[chosen].tolist()) == [1, 3, 4, 6, 7]


@pytest.mark.parametrize("count", [1, 5, 8, 30, 500])
def test_as_many_as_are_asked_for_each_once_up_to_all_that_are_left(count: int) -> None:
    rows, _ = clusters(rows=10)
    known = [0, 1, 2]
    chosen = taken(rows, count, known=known)
    assert len(chosen) == len(set(chosen)) == min(count, len(rows) - 3)
    assert not set(chosen) & set(known)


def test_equal_rows_and_rows_of_zeros_do_not_stop_it() -> None:
    assert len(taken(torch.ones(9, 4), 3)) == 3
    assert len(taken(torch.zeros(9, 4), 3)) == 3
    assert taken(torch.zeros(0, 4), 3) == []


def test_the_same_seed_gives_the_same_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setclip_cli.labelling.choose.TARGETS", 60)
    rows = torch.randn(300, 10, generator=torch.Generator().manual_seed(1))
    assert choose_rows(rows, 20, seed=3) == choose_rows(rows, 20, seed=3)
    assert choose_rows(rows, 20, seed=3) != choose_rows(rows, 20, seed=4)


def test_more_known_rows_than_are_looked_at_are_still_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setclip_cli.labelling.choose.KNOWN", 40)
    rows, owner = clusters()
    known = torch.nonzero(owner < PLACES - 1).squeeze(1).tolist()
    assert set(owner[taken(rows, 3, known=known)].tolist()) == {PLACES - 1}


def test_a_pool_larger_than_is_looked_at_is_covered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setclip_cli.labelling.choose.ROWS", 150)
    monkeypatch.setattr("setclip_cli.labelling.choose.TARGETS", 120)
    rows, owner = clusters()
    chosen = choose_rows(rows, PLACES, seed=0)
    assert sorted(owner[[row for row, _ in chosen]].tolist()) == list(range(PLACES))
    assert sum(stands_for for _, stands_for in chosen) == len(rows)
