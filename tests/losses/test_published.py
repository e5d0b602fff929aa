"""The released forms, against values that the authors' code printed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from setclip_cli.losses import published


def make_sets(n: int, d: int, shift: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((n, d)), generator.standard_normal((n, d)) + shift
    x, y = (torch.tensor((a / np.linalg.norm(a, axis=1, keepdims=True)).astype(np.float32)) for a in rows)
    return x, y


def test_agree_with_the_released_code_to_1e_5(oracle: Path) -> None:
    cases = json.loads((oracle / "official_losses.json").read_text())
    assert len(cases) == 4
    for case in cases:
        x, y = make_sets(case["n"], case["d"], case["shift"], case["seed"])
        found = {
            "J_ab": published.divergence(x, y),
            "J_ba": published.divergence(y, x),
            "sdd": published.sdd(x, y),
            "mmd_single_rbf": published.mmd(x, y),
            "mk_mmd_19": published.mk_mmd(x, y),
            "clip_first_third_paired_tau005": published.clip(x, y, case["n"] // 3),
            "nt_xent_interleaved_tau005": published.nt_xent(x, y),
        }
        for name, value in found.items():
            assert float(value) == pytest.approx(case[name], rel=1e-5), name


def test_sdd_matches_the_formula_written_as_plain_loops() -> None:
    x, y = make_sets(6, 3, 0.3, 9)
    a, b = x.double().tolist(), y.double().tolist()

    def variance(rows: list[list[float]]) -> float:
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        return sum((v - m) ** 2 for row in rows for v, m in zip(row, means, strict=True)) / (len(rows) - 1)

    def density(point: list[float], rows: list[list[float]]) -> float:
        return sum(
            3 * math.exp(-math.dist(point, row) ** 2 / (4 * 0.25 * variance(rows))) / (2 * math.pi * 0.25)
            for row in rows
        ) / 16  # fmt: skip

    def divergence(own: list[list[float]], other: list[list[float]]) -> float:
        pairs = [(density(point, own), density(point, other)) for point in own]
        return sum((p - q) * (math.log(p) - math.log(q)) for p, q in pairs)

    def squared_range(rows: list[list[float]]) -> float:
        return sum((max(column) - min(column)) ** 2 for column in zip(*rows, strict=True))

    expected = (divergence(a, b) + divergence(b, a)) * (1 / squared_range(a) + 1 / squared_range(b))
    assert float(published.sdd(x, y)) == pytest.approx(expected, rel=1e-5)


def test_gradient_is_that_of_finite_differences() -> None:
    x, y = (rows.double().requires_grad_() for rows in make_sets(6, 3, 0.3, 5))
    assert torch.autograd.gradcheck(published.sdd, (x, y))
    assert torch.autograd.gradcheck(published.mmd, (x, y))
    assert torch.autograd.gradcheck(lambda a, b: published.clip(a, b, 2), (x, y))


def test_equal_sets_give_zero() -> None:
    x, _ = make_sets(8, 3, 0, 1)
    assert float(published.sdd(x, x[torch.randperm(8)])) == pytest.approx(0, abs=1e-6)


def test_published_sdd_grows_with_the_batch_where_the_stable_one_does_not() -> None:
    """A sum over points: what makes its weight depend on the batch size."""
    x, y = make_sets(64, 8, 0.3, 2)
    assert float(published.divergence(x.repeat(2, 1), y.repeat(2, 1))) > 3 * float(published.divergence(x, y))


@pytest.mark.parametrize("pairs", [0, 9])
def test_clip_refuses_more_pairs_than_rows_and_none(pairs: int) -> None:
    x, y = make_sets(8, 3, 0, 1)
    with pytest.raises(ValueError, match=f"got {pairs} of 8 and 8"):
        published.clip(x, y, pairs)


def test_sdd_needs_two_rows() -> None:
    x, y = make_sets(1, 3, 0, 1)
    with pytest.raises(ValueError, match="two rows"):
        published.sdd(x, y)
