"""Probabilities: against scikit-learn, monotone, within limits, and right on pairs drawn from a known world."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from setclip_cli.trust.answers import best_answers, log_odds, partners_here, standing_out, unit_rows
from setclip_cli.trust.calibration import (
    Curve,
    HeldOut,
    calibrate,
    expected_calibration_error,
    fit_curve,
    fit_logistic,
    isotonic_knots,
)
from setclip_cli.trust.probability import no_partner, probabilities


def answers_of(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds that are too sure of themselves, and whether the answers are right."""
    draw = np.random.default_rng(seed)
    found = draw.normal(-1, 2, count)
    return found, (draw.random(count) < 1 / (1 + np.exp(-(0.5 * found - 0.3)))).astype(np.float64)


def test_the_logistic_curve_is_that_of_scikit_learn() -> None:
    found, right = answers_of(400)
    slope, intercept = fit_logistic(found, right, ridge=(0.0, 0.0))
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(found[:, None], right)
    assert slope == pytest.approx(theirs.coef_[0, 0], abs=1e-4)
    assert intercept == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_with_a_prior_no_other_curve_is_better() -> None:
    found, right = answers_of(50)
    slope, intercept = fit_logistic(found, right, ridge=(0.1, 2.0))

    def loss(one: float, other: float) -> float:
        score = one * found + other
        return float((np.logaddexp(0, score) - right * score).sum() + 0.05 * other**2 + (one - 1) ** 2)

    best = loss(slope, intercept)
    for step in (1e-3, -1e-3):
        assert loss(slope + step, intercept) > best
        assert loss(slope, intercept + step) > best


def test_without_a_right_answer_probabilities_are_small_and_not_zero() -> None:
    found = np.random.default_rng(0).normal(-2, 1, 150)
    curve = fit_curve(found, np.zeros(150))
    judged = curve(torch.tensor([-2.0, 0.0]))
    assert 0 < judged[0] < judged[1] < 0.1


def test_the_isotonic_curve_is_that_of_scikit_learn() -> None:
    found, right = answers_of(800)
    found = found.round(1)  # ties
    curve = Curve(1, 0, isotonic_knots(found, right))
    theirs = IsotonicRegression(out_of_bounds="clip").fit(found, right)
    asked = np.linspace(-9, 7, 301)
    np.testing.assert_allclose(curve(torch.from_numpy(asked)).numpy(), theirs.predict(asked), atol=1e-12)


@pytest.mark.parametrize("isotonic", [False, True])
def test_what_stands_out_more_is_never_less_probable(isotonic: bool) -> None:
    found, right = answers_of(300)
    curve = fit_curve(found, 1 - right, isotonic=isotonic)  # turned round: the slope may not follow
    judged = curve(torch.linspace(-50, 50, 999))
    assert bool((judged.diff() >= 0).all())
    assert float(judged.min()) >= 0
    assert float(judged.max()) <= 1


def test_the_calibration_error_of_exact_probabilities_is_small_and_of_others_their_distance() -> None:
    draw = np.random.default_rng(3)
    judged = draw.random(20_000)
    right = (draw.random(20_000) < judged).astype(np.float64)
    assert expected_calibration_error(judged, right) < 0.015
    assert expected_calibration_error(np.full(100, 0.7), np.r_[np.ones(20), np.zeros(80)]) == pytest.approx(0.5)
    assert expected_calibration_error(np.array([0.25]), np.array([1.0])) == pytest.approx(0.75)


def test_log_odds_are_finite_where_a_share_rounds_to_one() -> None:
    found = log_odds(torch.tensor([0.0, 1e-7, -0.5, -80.0]))
    assert bool(found.isfinite().all())
    assert float(found[2]) == pytest.approx(math.log(math.exp(-0.5) / (1 - math.exp(-0.5))), abs=1e-6)


def test_partners_share_what_one_would_have() -> None:
    """Five equal right rows of ten: the first stands out as a half does, not as a tenth."""
    cosines = torch.tensor([0.5])
    mass = torch.logsumexp(torch.full((10,), 5.0), 0, keepdim=True)
    assert float(standing_out(cosines, mass, 0.1, 5.0)) == pytest.approx(math.log(5 * (1 / 10) / (9 / 10)), abs=1e-5)
    assert partners_here(5.0, queries=100, gallery=500) == 5
    assert partners_here(5.0, queries=100, gallery=120) == pytest.approx(1.2)
    assert partners_here(1.0, queries=100, gallery=5000) == 1
    assert partners_here(3.0, queries=0, gallery=2) == 2


def world(rows: int, seed: int, noise: float = 1.4) -> tuple[torch.Tensor, torch.Tensor]:
    """Row i of both sides is one item."""
    draw = torch.Generator().manual_seed(seed)
    factors = torch.randn(rows, 16, generator=draw)
    left, right = (factors + noise * torch.randn(rows, 16, generator=draw) for _ in range(2))
    return unit_rows(left), unit_rows(right)


def held_out(rows: int, known: int, seed: int = 0) -> HeldOut:
    left, right = world(rows, seed)
    pairs = torch.arange(known).repeat(2, 1).T
    return HeldOut(left, right, pairs, torch.arange(known))


@pytest.mark.parametrize("gallery", [100, 500, 2000])
def test_probabilities_are_right_in_galleries_of_other_sizes(gallery: int) -> None:
    directions = calibrate(lambda: [held_out(500, 200)], seed=0)
    left, right = world(gallery, seed=7)
    answers = best_answers(left, right, (directions[0].temperature, directions[1].temperature), 1)
    for side in (0, 1):
        queries = torch.arange(gallery)
        judged = probabilities(directions, answers, side, queries, answers[side].rows, answers[side].cosines)[:, 0]
        right_ones = (answers[side].rows[:, 0] == queries).double()
        assert float(judged.mean()) == pytest.approx(float(right_ones.mean()), abs=0.06)
        assert expected_calibration_error(judged.double().numpy(), right_ones.numpy(), bins=5) < 0.09


def test_known_items_with_more_texts_than_others_are_asked_as_the_others_are() -> None:
    """Known items have three texts that are nearly alike, and other items one. If the other two stayed in the gallery,
    no text of a known item could stand out, and what stands out would mean too much for the others."""
    left, right = world(300, seed=1)
    copies = [unit_rows(right[:60] + 0.02 * number) for number in (1, 2)]
    pairs = torch.stack([torch.arange(60).repeat(3), torch.cat([torch.arange(60), 300 + torch.arange(120)])], 1)
    part = HeldOut(left, torch.cat([right, *copies]), pairs, torch.arange(60).repeat(3))
    found = calibrate(lambda: [part], seed=0)
    assert found[0].partners == 3
    assert found[1].partners == 1
    assert len(found[0].scores) == 180
    left, right = world(420, seed=3)
    answers = best_answers(left, right, (found[0].temperature, found[1].temperature), 1)
    judged = probabilities(found, answers, 0, torch.arange(420), answers[0].rows, answers[0].cosines)[:, 0]
    is_right = (answers[0].rows[:, 0] == torch.arange(420)).double()
    assert float(judged.mean()) == pytest.approx(float(is_right.mean()), abs=0.08)


def test_probabilities_are_right_where_every_row_has_several_partners() -> None:
    """Two right rows each, in the gallery of the calibration and in the one that is asked."""

    def pools(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        factors = torch.randn(rows, 16, generator=draw)
        left = unit_rows(factors + torch.randn(rows, 16, generator=draw))
        own = torch.arange(rows).repeat(2)
        return left, unit_rows(factors[own] + torch.randn(2 * rows, 16, generator=draw)), own

    left, right, own = pools(300, seed=0)
    directions = calibrate(lambda: [HeldOut(left, right, torch.stack([own, torch.arange(600)], 1), own)], seed=0)
    left, right, own = pools(400, seed=1)
    answers = best_answers(left, right, (directions[0].temperature, directions[1].temperature), 1)
    for side, is_right in enumerate((own[answers[0].rows[:, 0]] == torch.arange(400), answers[1].rows[:, 0] == own)):
        queries = torch.arange(len(is_right))
        judged = probabilities(directions, answers, side, queries, answers[side].rows, answers[side].cosines)[:, 0]
        assert float(judged.mean()) == pytest.approx(float(is_right.double().mean()), abs=0.06)
        assert expected_calibration_error(judged.double().numpy(), is_right.double().numpy()) < 0.08


def test_the_same_pairs_calibrate_to_the_same_numbers() -> None:
    first, second = (calibrate(lambda: [held_out(300, 50)], seed=4) for _ in range(2))
    assert first == second
    assert calibrate(lambda: [held_out(300, 50)], seed=5) != first


def test_nothing_can_be_calibrated_without_pairs() -> None:
    with pytest.raises(ValueError, match="got none"):
        calibrate(lambda: [], seed=0)


def test_the_best_answers_are_those_of_a_plain_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of a few rows, for both sides, where some rows are equal."""
    left, right = world(23, seed=2)
    right = torch.cat([right, right[:9]])
    monkeypatch.setattr("setclip_cli.trust.answers.TILE", 5 * len(right))
    found = best_answers(left, right, (0.1, 0.2), 6)
    cosines = left @ right.T
    for side, rows in enumerate((cosines, cosines.T)):
        order = rows.argsort(dim=1, descending=True, stable=True)[:, :6]
        torch.testing.assert_close(found[side].cosines, rows.gather(1, order))
        torch.testing.assert_close(found[side].cosines, rows.gather(1, found[side].rows))
        assert all(len(set(line)) == 6 for line in found[side].rows.tolist())
        torch.testing.assert_close(found[side].mass, torch.logsumexp(rows / (0.1, 0.2)[side], 1))
        assert found[side].others == rows.shape[1]


def test_an_answer_that_stands_out_speaks_for_a_partner() -> None:
    """Rows of both kinds are drawn; the first answer to a row without a partner looks as wrong answers do."""
    draw = torch.Generator().manual_seed(0)
    count = 40_000
    has_partner = torch.rand(count, generator=draw) < 0.7
    right = has_partner & (torch.rand(count, generator=draw) < 0.4)
    seen = torch.randn(count, generator=draw) + 2 * right  # log-odds of the two densities: 2 seen - 2
    first = torch.sigmoid(2 * seen - 2 + math.log(0.4 / 0.6)).double()
    known_mean = first[has_partner].mean()
    judged = no_partner(torch.full((count,), 0.3).double(), first - first.mean() + known_mean)
    for part in (seen < 0, (seen > 0) & (seen < 1.5), seen > 1.5):
        assert float(judged[part].mean()) == pytest.approx(float((~has_partner[part]).double().mean()), abs=0.05)
    assert no_partner(torch.zeros(3), torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 0, 0]
    assert bool(no_partner(torch.ones(3), torch.ones(3)).isfinite().all())
