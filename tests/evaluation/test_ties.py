"""Tie classes against counting by definition, on both ways of finding them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setclip_cli.evaluation.ties import tie_classes

MANY = 9  # relevant rows, from which on buckets are used


def assert_as_defined(scores: np.ndarray, positives: np.ndarray) -> None:
    found = tie_classes(scores[None], [positives])
    levels = sorted({float(scores[row]) for row in positives}, reverse=True)
    assert found.before.tolist() == [int((scores > level).sum()) for level in levels]
    assert found.size.tolist() == [int((scores == level).sum()) for level in levels]
    assert found.relevant.tolist() == [int((scores[positives] == level).sum()) for level in levels]


@given(
    seed=st.integers(0, 2**32 - 1),
    gallery=st.integers(10, 400),
    levels=st.integers(1, 500),
    spread=st.sampled_from([1.0, 1e-3, 1e-7, 1e-30, 1e-44]),
    middle=st.sampled_from([0.0, 0.7, -0.7]),
    share=st.floats(0.01, 1),
)
@settings(max_examples=200, deadline=None)
def test_tie_classes_are_what_counting_each_level_gives(seed, gallery, levels, spread, middle, share):
    rng = np.random.default_rng(seed)
    scores = (middle + spread * rng.uniform(-1, 1, size=levels)).astype(np.float32)[rng.integers(0, levels, gallery)]
    few = rng.choice(gallery, size=min(gallery, 3), replace=False)
    many = rng.choice(gallery, size=max(MANY, int(share * gallery)), replace=False)
    assert_as_defined(scores, np.sort(few))
    assert_as_defined(scores, np.sort(many))


def test_one_far_score_and_neighbouring_floats_are_told_apart():
    rng = np.random.default_rng(0)
    near = np.float32(0.5) + np.arange(50, dtype=np.float32) * np.spacing(np.float32(0.5))
    scores = rng.permutation(np.concatenate([near, near[:20], [-1.0, 1.0]])).astype(np.float32)
    assert_as_defined(scores, np.arange(0, len(scores), 3))


def test_minus_zero_ties_with_zero():
    scores = np.array([0.0, -0.0] * 10 + [0.5, -0.5] * 5, np.float32)
    found = tie_classes(scores[None], [np.arange(0, 30, 2)])
    assert (found.before.tolist(), found.size.tolist(), found.relevant.tolist()) == ([0, 5], [5, 20], [5, 10])


def test_queries_with_few_and_with_many_answers_share_a_block():
    rng = np.random.default_rng(1)
    scores = rng.uniform(-1, 1, size=(3, 90)).astype(np.float32)
    positives = [np.array([4]), np.arange(0, 90, 2), np.arange(1, 90, 2)]
    together = tie_classes(scores, positives)
    for row, (start, stop) in enumerate(zip(together.offsets, together.offsets[1:], strict=False)):
        alone = tie_classes(scores[row : row + 1], positives[row : row + 1])
        assert together.before[start:stop].tolist() == alone.before.tolist()


def test_the_head_of_a_ranking_keeps_each_best_class():
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]], np.float32)
    found = tie_classes(scores, [np.array([0, 3]), np.array([2, 3])]).within(2)
    assert found.offsets.tolist() == [0, 1, 2]
    assert found.before.tolist() == [0, 2]


def test_what_is_no_ranking_is_an_error():
    with pytest.raises(ValueError, match="positives"):
        tie_classes(np.zeros((1, 3), np.float32), [np.empty(0, np.int64)])
    for wrong in (np.nan, np.inf, 7.0):
        scores = np.zeros((1, 20), np.float32)
        scores[0, 3] = wrong
        with pytest.raises(ValueError, match="cosines"):
            tie_classes(scores, [np.arange(MANY)])
