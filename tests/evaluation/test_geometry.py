"""Geometry statistics against plain loops and at the limits where their value is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import skew

from evaluation.test_metrics import unit
from setclip_cli.evaluation import geometry
from setclip_cli.losses.mk_mmd import mk_mmd
from setclip_cli.losses.sdd import sdd

RNG = np.random.default_rng(11)
X, Y = unit(RNG, 40, 6), unit(RNG, 40, 6)


def test_row_shares_of_sdd_and_mmd_add_up_to_the_losses():
    x, y = X, Y[:25]
    left, right = geometry.sdd_shares(x, y)
    assert left.mean() + right.mean() == pytest.approx(
        float(sdd(torch.from_numpy(x), torch.from_numpy(y), [geometry.SDD_BANDWIDTH])), rel=1e-5
    )
    left, right = geometry.mmd_shares(x, y)
    summed = float(mk_mmd(torch.from_numpy(x), torch.from_numpy(y), geometry.MMD_BANDWIDTHS))
    assert left.mean() + right.mean() == pytest.approx(summed / len(geometry.MMD_BANDWIDTHS), abs=1e-6)


def test_equal_sets_have_no_gap_no_sdd_and_no_mmd():
    again = X[::-1].copy()
    assert geometry.modality_gap(X, again) == pytest.approx(0, abs=1e-7)
    for statistic in (geometry.sdd_shares, geometry.mmd_shares):
        left, right = statistic(X, again)
        assert left.mean() + right.mean() == pytest.approx(0, abs=1e-5)


def test_opposite_points_have_the_largest_gap():
    pole = np.array([[1.0, 0.0]], np.float32)
    assert geometry.modality_gap(pole, -pole) == 2


def test_uniformity_matches_a_double_loop_and_its_limit():
    loops = [
        math.exp(-2 * sum((a - b) ** 2 for a, b in zip(X[i].tolist(), X[j].tolist(), strict=True)))
        for i in range(len(X))
        for j in range(len(X))
        if i != j
    ]
    assert geometry.mean_potential(X).mean() == pytest.approx(sum(loops) / len(loops), abs=1e-6)
    assert geometry.mean_potential(np.repeat(X[:1], 5, axis=0)).tolist() == pytest.approx([1] * 5)
    many = geometry.mean_potential(unit(np.random.default_rng(0), 4000, 6)).mean()
    assert math.log(many) == pytest.approx(geometry.uniform_uniformity(6), abs=0.01)


def test_cka_is_blind_to_rotation_and_scale_and_near_zero_for_strangers():
    rotation = np.linalg.qr(RNG.normal(size=(6, 6)))[0].astype(np.float32)
    assert geometry.linear_cka(X, 3 * X @ rotation) == pytest.approx(1, abs=1e-5)
    strangers = geometry.linear_cka(unit(RNG, 4000, 6), unit(RNG, 4000, 6))
    assert strangers < 0.01
    assert geometry.linear_cka(X, np.repeat(X[:1], len(X), axis=0)) == 0


def test_cka_matches_the_kernel_form():
    centring = np.eye(len(X)) - 1 / len(X)
    a, b = (centring @ (rows @ rows.T).astype(np.float64) @ centring for rows in (X, Y))
    expected = (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
    assert geometry.linear_cka(X, Y) == pytest.approx(expected, abs=1e-6)


def nearest_by_loops(rows: np.ndarray, k: int) -> list[set[int]]:
    found = []
    for i, row in enumerate(rows):
        others = [(float(((row - other) ** 2).sum()), j) for j, other in enumerate(rows) if j != i]
        found.append({j for _, j in sorted(others)[:k]})
    return found


def test_mutual_neighbours_match_loops_and_are_all_shared_by_a_set_with_itself():
    x, y = nearest_by_loops(X, 5), nearest_by_loops(Y, 5)
    expected = [len(a & b) / 5 for a, b in zip(x, y, strict=True)]
    assert geometry.mutual_knn(X, Y, 5).tolist() == pytest.approx(expected)
    assert geometry.mutual_knn(X, X, 5).tolist() == [1] * len(X)


def test_foscttm_is_zero_for_perfect_matches_and_half_for_a_blind_model():
    assert geometry.foscttm(X, X).tolist() == [0] * len(X)
    assert geometry.foscttm(np.repeat(X[:1], 9, axis=0), Y[:9]).tolist() == pytest.approx(
        ((np.argsort(np.argsort(-(Y[:9] @ X[0]))) / 8 + 0.5) / 2).tolist()
    )
    loops = []
    for i in range(len(X)):
        forth = sum(float(X[i] @ Y[j]) > float(X[i] @ Y[i]) for j in range(len(Y)))
        back = sum(float(X[j] @ Y[i]) > float(X[i] @ Y[i]) for j in range(len(X)))
        loops.append((forth + back) / 2 / (len(X) - 1))
    assert geometry.foscttm(X, Y).tolist() == pytest.approx(loops)


def test_hubness_is_zero_when_all_are_found_equally_often_and_high_with_one_hub():
    assert geometry.skewness(np.full(40, 7.0)) == 0
    assert geometry.skewness(np.array([40.0] + [0.0] * 39)) > 5


def test_chance_hubness_is_what_random_neighbours_have():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        drawn = np.concatenate([rng.choice(50, size=10, replace=False) for _ in range(80)])
        found.append(geometry.skewness(np.bincount(drawn, minlength=50).astype(float)))
    assert np.mean(found) == pytest.approx(geometry.chance_skewness(80, 50), abs=0.08)
    assert geometry.chance_skewness(80, 5) == 0  # everything is a neighbour


def test_hubness_matches_the_skewness_of_counts_by_loops():
    counts = [0] * len(Y)
    for row in X:
        for j in sorted(range(len(Y)), key=lambda j: -float(row @ Y[j]))[:10]:
            counts[j] += 1
    nearest = geometry.neighbours(X, Y, 10)
    assert np.bincount(nearest.ravel(), minlength=len(Y)).tolist() == counts
    assert geometry.skewness(np.array(counts, float)) == pytest.approx(skew(counts))


def test_alignment_is_the_squared_distance_of_pairs():
    assert geometry.alignment(X, Y).tolist() == pytest.approx(
        [2 - 2 * float(a @ b) for a, b in zip(X, Y, strict=True)], abs=1e-6
    )


def test_shuffling_keeps_all_rows_and_both_sizes():
    a, b = geometry.random_split_of_pool(X, Y[:7])
    assert (len(a), len(b)) == (40, 7)
    assert {row.tobytes() for row in np.concatenate([a, b])} == {row.tobytes() for row in np.concatenate([X, Y[:7]])}


def test_similarity_densities_integrate_to_one():
    found = geometry.similarity_density(X, Y, bins=40, sample=20)
    width = found["similarity"][1] - found["similarity"][0]
    for name in ("within_left", "within_right", "cross"):
        assert sum(found[name]) * width == pytest.approx(1)


def test_neighbours_keep_no_more_in_memory_than_they_return(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32)
    kept: list[np.ndarray] = []
    whole = np.concatenate
    monkeypatch.setattr(np, "concatenate", lambda parts, *more, **how: kept.extend(parts) or whole(parts, *more, **how))
    assert geometry.neighbours(rows, rows, 5).shape == (1500, 5)
    assert all(part.base is None for part in kept)
    assert len(kept) >= 1
