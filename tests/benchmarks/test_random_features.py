"""The three ways to take a kernel sum estimate the same sum: each is right where it can be."""

from __future__ import annotations

import pytest
import random_features
import torch


@pytest.mark.parametrize(
    ("way", "size", "error"), [("sample", 200, 1e-5), ("fourier", 8192, 0.02), ("positive", 8192, 0.1)]
)
def test_each_way_estimates_the_kernel_sum(way: str, size: int, error: float) -> None:
    left, right = random_features.sets(200, "clusters")
    scale = 2.0
    expected = random_features.exact(right, scale)(left)
    found = random_features.MADE[way](right, scale, size, torch.Generator().manual_seed(0))(left)
    assert float((found - expected).abs().mean()) < error


def test_the_loss_of_equal_sets_is_zero_and_of_others_it_is_sdd() -> None:
    from setclip_cli.losses.sdd import sdd

    left, right = (rows[:40] for rows in random_features.sets(40, "spread"))
    sums = random_features.exact(left, 0.5), random_features.exact(right, 0.5)
    assert float(random_features.loss((left, left), (sums[0], sums[0]))[0]) == pytest.approx(0, abs=1e-6)
    value = random_features.loss((left, right), sums)[0]
    assert float(value) == pytest.approx(float(sdd(left, right, [0.5])), rel=1e-4)
