"""One partner for each row: a permutation, and the best one."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from setclip_cli.matching.assignment import assign
from setclip_cli.trust.answers import unit_rows


def pools(left: int, right: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return unit_rows(torch.randn(left, 5, generator=draw)), unit_rows(torch.randn(right, 5, generator=draw))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sizes", [(6, 6), (4, 7), (7, 3), (1, 5)])
def test_no_other_assignment_has_a_larger_sum(sizes: tuple[int, int], seed: int) -> None:
    left, right = pools(*sizes, seed)
    pairs = assign(left, right)
    assert len(pairs) == min(sizes)
    assert pairs[:, 0].equal(pairs[:, 0].sort().values)
    assert all(len(side.unique()) == len(side) for side in pairs.T)
    cosines = left @ right.T if sizes[0] <= sizes[1] else right @ left.T
    best = max(
        sum(float(cosines[row, column]) for row, column in enumerate(columns))
        for columns in permutations(range(max(sizes)), min(sizes))
    )
    assert float((left[pairs[:, 0]] * right[pairs[:, 1]]).sum()) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("sizes", [(90, 90), (60, 140), (140, 60)])
def test_among_candidates_every_row_still_gets_its_own_partner(sizes: tuple[int, int]) -> None:
    left, right = pools(*sizes)
    exact = assign(left, right)
    near = assign(left, right, dense=400, candidates=5)
    assert len(near) == min(sizes)
    assert all(len(side.unique()) == len(side) for side in near.T)
    found, best = (float((left[one[:, 0]] * right[one[:, 1]]).sum()) for one in (near, exact))
    assert best - 0.06 * abs(best) <= found <= best + 1e-4


def test_rows_that_are_all_alike_are_assigned_too() -> None:
    """Every row has the same candidates, so most get none of them at first."""
    left, right = (unit_rows(torch.ones(50, 3)) for _ in range(2))
    pairs = assign(left, right, dense=100, candidates=2)
    assert all(sorted(side.tolist()) == list(range(50)) for side in pairs.T)
