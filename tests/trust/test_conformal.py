"""Conformal sets: their coverage on exchangeable items, and the limits of the threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_calibration import held_out, world

from setclip_cli.trust.answers import best_answers
from setclip_cli.trust.calibration import calibrate
from setclip_cli.trust.conformal import item_weights, threshold
from setclip_cli.trust.probability import conformal_sets, in_sets


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("known", [30, 50, 199])
def test_a_new_item_is_covered_as_often_as_stated(known: int, coverage: float) -> None:
    """Over many draws: at least the coverage, and at most 1 / (known + 1) more. Both within the error of the mean."""
    draw = np.random.default_rng(known)
    hits = []
    for _ in range(4000):
        scores = draw.normal(size=known + 1)
        hits.append(scores[-1] >= threshold(scores[:-1].tolist(), list(range(known)), coverage))
    error = 4 * math.sqrt(coverage * (1 - coverage) / 4000)
    assert coverage - error < np.mean(hits) < coverage + 1 / (known + 1) + error


def test_items_with_many_pairs_do_not_decide_for_the_others() -> None:
    """A partner of a new item is covered, whatever the numbers of pairs: those with many pairs are easier here."""
    draw = np.random.default_rng(0)
    hits = []
    for _ in range(3000):
        counts = np.where(draw.random(61) < 0.3, 20, 1)
        scores = [draw.normal(3 if count > 1 else 0, 1, count) for count in counts]
        items = [number for number, of_item in enumerate(scores[:-1]) for _ in of_item]
        limit = threshold(np.concatenate(scores[:-1]).tolist(), items, 0.9)
        hits.append(float((scores[-1] >= limit).mean()))
    assert 0.885 < np.mean(hits) < 0.93


def test_without_the_new_item_the_known_ones_have_all_weight() -> None:
    assert threshold([1.0, 2.0, 3.0], [0, 1, 2], 0.8, with_the_new_item=False) == 1.0
    assert threshold([1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3], 0.75, with_the_new_item=False) == 2.0
    assert threshold([1.0, 2.0, 5.0], [0, 0, 1], 0.75, with_the_new_item=False) == 2.0


def test_a_coverage_that_the_items_cannot_tell_takes_all_rows_in() -> None:
    assert threshold([1.0, 2.0, 3.0], [0, 1, 2], 0.8) == -math.inf
    assert threshold([1.0, 2.0, 3.0], [0, 1, 2], 0.75) == 1.0
    assert threshold([1.0, 2.0, 3.0], [0, 1, 2], 0.5) == 2.0
    assert threshold([], [], 0.5) == -math.inf


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, math.nan])
def test_a_coverage_is_between_none_and_all(coverage: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        threshold([1.0], [0], coverage)


def test_more_coverage_never_takes_fewer_rows() -> None:
    scores = np.random.default_rng(1).normal(size=77).tolist()
    found = [threshold(scores, list(range(77)), coverage / 100) for coverage in range(1, 100)]
    assert found == sorted(found, reverse=True)


def test_weights_leave_the_place_of_the_new_item() -> None:
    np.testing.assert_allclose(item_weights([7, 7, 3]), [1 / 6, 1 / 6, 1 / 3])


def test_sets_hold_the_partners_of_new_rows_and_their_sizes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = calibrate(lambda: [held_out(400, 200)], seed=0)
    left, right = world(600, seed=9)
    monkeypatch.setattr("setclip_cli.trust.answers.TILE", 7 * 600)
    answers = best_answers(left, right, (directions[0].temperature, directions[1].temperature), 600)
    sizes = []
    for coverage in (0.8, 0.95):
        sets = conformal_sets(directions, answers, left, right, coverage)
        for side in (0, 1):
            queries = torch.arange(600)
            inside = in_sets(sets, directions, answers, side, queries, answers[side].rows, answers[side].cosines)
            assert inside.sum(1).equal(sets.sizes[side])
            partner = inside[answers[side].rows == queries[:, None]]
            assert float(partner.double().mean()) == pytest.approx(coverage, abs=0.06)
            sizes.append(float(sets.sizes[side].double().mean()))
    assert sizes[0] < sizes[2]
    assert sizes[1] < sizes[3]
