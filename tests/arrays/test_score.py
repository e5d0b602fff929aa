"""`Aligned.score` gives what a report of `setclip evaluate` gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny import pools

import setclip_cli as setclip
from setclip_cli.evaluation.metric_names import MEAN_RECALL


@pytest.fixture(scope="module")
def case() -> tuple[setclip.Aligned, np.ndarray, np.ndarray]:
    left, right, pairs = pools()
    return setclip.fit(left, right, pairs, method="cca"), left.numpy(), right.numpy()


def test_pairs_are_the_right_answers(case: tuple[setclip.Aligned, np.ndarray, np.ndarray]) -> None:
    """Ranks counted by hand, over all rows of the other side."""
    aligned, x, y = case
    pairs = [(row, 89 - row) for row in range(50)]
    found = aligned.score(x, y, pairs)
    cosines = aligned.similarity(x, y)
    for direction, table, asked in (
        ("left_to_right", cosines, pairs),
        ("right_to_left", cosines.T, [pair[::-1] for pair in pairs]),
    ):
        ranks = np.array([(table[query] > table[query, answer]).sum() + 1 for query, answer in asked])
        for k in (1, 5, 10):
            assert found[f"{direction}/recall_at_{k}"] == pytest.approx((ranks <= k).mean())
        assert found[f"{direction}/median_rank"] == np.median(ranks)
        assert found[f"{direction}/map"] == pytest.approx((1 / ranks).mean())
    assert MEAN_RECALL in found
    assert "geometry/modality_gap" in found
    assert not any(key.startswith("zero_shot/") for key in found)
    assert all(isinstance(value, float) for value in found.values())


def test_labels_are_the_right_answers_where_there_are_no_pairs(
    case: tuple[setclip.Aligned, np.ndarray, np.ndarray],
) -> None:
    """Pools of three clusters, which the pairs know: rows of a cluster come first. A row without a label is no row."""
    aligned, x, y = case
    labels: Any = np.arange(60) % 3, [None if row == 4 else row % 3 for row in range(90)]
    found = aligned.score(x, y, labels=labels)
    assert found["left_to_right/map"] > 0.9
    assert found["zero_shot/top1"] > 0.9
    kept = [row for row in range(90) if row != 4]
    assert found == aligned.score(x, y[kept], labels=(labels[0], np.array(kept) % 3))
    with_pairs = aligned.score(x, y, [(0, 0), (1, 1)], labels=labels)
    assert with_pairs["zero_shot/top1"] > 0.9
    assert with_pairs["left_to_right/map"] < 0.9


def test_keys_have_the_names_of_the_sides() -> None:
    left, right, pairs = pools()
    aligned = setclip.fit(left, right, pairs, method="cca", names=("audio", "text"))
    found = aligned.score(left, right, pairs)
    assert {"audio_to_text/recall_at_1", "text_to_audio/recall_at_1"} <= found.keys()


@pytest.mark.parametrize(
    ("pairs", "labels", "words"),
    [
        (None, None, "score: does not know the right answers"),
        ([], None, "score: does not know the right answers"),
        ([(60, 0)], None, "name rows that are not there"),
        (None, ["a"] * 60, "labels: is not a pair"),
        (None, (["a"] * 60, ["a"] * 60), "labels: has 60 labels for y, which has 90 rows"),
        (None, (["a"] * 60, ["b"] * 90), "x and y have no label in common"),
        (None, ([None] * 60, ["b"] * 90), "x and y have no label in common"),
    ],
)
def test_what_is_wrong_is_said(
    case: tuple[setclip.Aligned, np.ndarray, np.ndarray], pairs: Any, labels: Any, words: str
) -> None:
    aligned, x, y = case
    with pytest.raises(setclip.SetClipError, match=words):
        aligned.score(x, y, pairs, labels=labels)
