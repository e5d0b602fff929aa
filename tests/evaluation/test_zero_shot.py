"""Zero-shot classification against loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from evaluation.test_metrics import unit
from setclip_cli.evaluation import examples, zero_shot

RNG = np.random.default_rng(21)
CLASSES = [f"class {number}" for number in range(7)]
LABELS = [CLASSES[row % 7] for row in range(90)]
ROWS, PROTOTYPES = unit(RNG, 90, 5), unit(RNG, 7, 5)


def test_agrees_with_scikit_learn():
    found = zero_shot.classify(ROWS, LABELS, PROTOTYPES, CLASSES)
    scores = ROWS @ PROTOTYPES.T
    for k in (1, 5):
        theirs = top_k_accuracy_score(LABELS, scores, k=k, labels=CLASSES)
        assert found.values[f"top{k}"].mean() == pytest.approx(theirs)
    predicted = [CLASSES[place] for place in scores.argmax(1)]
    assert found.per_class().mean() == pytest.approx(balanced_accuracy_score(LABELS, predicted))
    np.testing.assert_array_equal(found.confusion, confusion_matrix(LABELS, predicted, labels=CLASSES))
    assert found.chance == {"top1": pytest.approx(1 / 7), "top5": pytest.approx(5 / 7)}


def test_the_surest_mistake_of_a_confusion_is_the_one_with_the_widest_margin():
    found = zero_shot.classify(ROWS, LABELS, PROTOTYPES, CLASSES)
    mistakes = examples.frequent_confusions(found)
    scores = ROWS @ PROTOTYPES.T
    assert len(mistakes) == examples.EXAMPLES_SHOWN
    for mistake in mistakes:
        true, taken = CLASSES.index(mistake.true), CLASSES.index(mistake.taken)
        rows = [row for row in range(90) if LABELS[row] == mistake.true and scores[row].argmax() == taken]
        assert mistake.rows == len(rows) > 0
        assert mistake.total == LABELS.count(mistake.true)
        assert mistake.example == max(rows, key=lambda row: scores[row, taken] - scores[row, true])


def test_rows_of_other_classes_and_without_a_class_are_left_out():
    labels = ["unknown", None, *LABELS[2:]]
    found = zero_shot.classify(ROWS, labels, PROTOTYPES, CLASSES)
    assert found.rows.tolist() == list(range(2, 90))


def test_class_means_are_unit_means_of_the_rows_of_the_class():
    means = zero_shot.class_means(ROWS, LABELS, CLASSES)
    for name, mean in zip(CLASSES, means, strict=True):
        rows = [row.astype(float) for row, label in zip(ROWS, LABELS, strict=True) if label == name]
        expected = sum(rows) / len(rows)
        assert mean.tolist() == pytest.approx((expected / np.linalg.norm(expected)).tolist(), abs=1e-6)


def test_a_class_without_a_row_is_named():
    with pytest.raises(ValueError, match="without a row: lagoon"):
        zero_shot.class_means(ROWS, LABELS, [*CLASSES, "lagoon"])


def test_equal_prototypes_share_the_win():
    rows = np.array([[1.0, 0.0]] * 4, np.float32)
    found = zero_shot.classify(rows, ["a"] * 4, np.array([[1.0, 0.0], [1.0, 0.0]], np.float32), ["a", "b"])
    assert found.values["top1"].tolist() == [0.5] * 4
