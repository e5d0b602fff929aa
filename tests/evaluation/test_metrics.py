"""Retrieval metrics against loops over every order of the ties, against scikit-learn, and at their limits."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from evaluation import brute_force
from setclip_cli.evaluation import metrics, relevance, similarity

NAMES = ("recall_at_1", "recall_at_5", "recall_at_10", "map", "mrr", "ndcg_at_10", "precision_at_1", "precision_at_10")


def unit(rng: np.random.Generator, rows: int, width: int = 8) -> np.ndarray:
    drawn = rng.normal(size=(rows, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def cosines(rng: np.random.Generator, queries: int, gallery: int) -> np.ndarray:
    return rng.uniform(-1, 1, size=(queries, gallery)).astype(np.float32)


@given(data=st.data(), gallery=st.integers(1, 7), queries=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_every_metric_is_its_mean_over_all_orders_of_the_ties(data, gallery, queries):
    rows = st.lists(st.integers(0, 3), min_size=gallery, max_size=gallery)  # four levels: ties in nearly every row
    scores = data.draw(st.lists(rows, min_size=queries, max_size=queries))
    chosen = st.sets(st.integers(0, gallery - 1), min_size=1)
    positives = data.draw(st.lists(chosen, min_size=queries, max_size=queries))
    classes = metrics.tie_classes(np.array(scores, np.float32) / 4, [np.array(sorted(found)) for found in positives])
    values = metrics.query_values(classes, (1, 5, 10))
    for query in range(queries):
        expected = brute_force.expected(scores[query], positives[query])
        for name, value in expected.items():
            assert values[name][query] == pytest.approx(value, abs=1e-12), name


def test_agrees_with_scikit_learn_where_it_has_the_metric():
    rng = np.random.default_rng(5)
    scores = cosines(rng, 12, 200)
    truth = rng.random((12, 200)) < 0.1
    values = metrics.query_values(metrics.tie_classes(scores, [np.flatnonzero(row) for row in truth]), (1,))
    ours = values["map"].tolist()
    theirs = [average_precision_score(row, score) for row, score in zip(truth, scores, strict=True)]
    assert ours == pytest.approx(theirs, abs=1e-12)
    tied = rng.integers(0, 6, size=(12, 200)).astype(np.float32) / 8  # scikit-learn averages nDCG over ties as we do
    values = metrics.query_values(metrics.tie_classes(tied, [np.flatnonzero(row) for row in truth]), (1,))
    assert values["ndcg_at_10"].mean() == pytest.approx(ndcg_score(truth, tied, k=10), abs=1e-12)


@pytest.mark.parametrize("share", [0.005, 0.2], ids=["few answers", "many answers"])
def test_agrees_with_torchmetrics_where_it_has_the_metric(share):
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval", reason="torchmetrics is not installed")
    rng = np.random.default_rng(11)
    levels = np.linspace(0.01, 1, 400, dtype=np.float32)  # it has no rule for ties, and finds nothing below 0
    scores = rng.permuted(np.tile(levels, (10, 1)), axis=1)
    truth = rng.random(scores.shape) < share
    truth[:, 7] = True
    values = metrics.query_values(metrics.tie_classes(scores, [np.flatnonzero(row) for row in truth]), (1, 5, 10))
    theirs = {
        "map": retrieval.retrieval_average_precision,
        "mrr": retrieval.retrieval_reciprocal_rank,
        "ndcg_at_10": partial(retrieval.retrieval_normalized_dcg, top_k=10),
        "precision_at_1": partial(retrieval.retrieval_precision, top_k=1),
        "precision_at_10": partial(retrieval.retrieval_precision, top_k=10),
        **{f"recall_at_{k}": partial(retrieval.retrieval_hit_rate, top_k=k) for k in (1, 5, 10)},
    }
    for name, metric in theirs.items():
        expected = [float(metric(*map(torch.from_numpy, row))) for row in zip(scores, truth, strict=True)]
        assert values[name].tolist() == pytest.approx(expected, abs=1e-6), name


@given(seed=st.integers(0, 2**32 - 1), gallery=st.integers(1, 40), positives=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_a_model_that_scores_all_rows_alike_gets_exactly_the_chance_level(seed, gallery, positives):
    rng = np.random.default_rng(seed)
    found = [np.sort(rng.choice(gallery, size=min(positives, gallery), replace=False)) for _ in range(3)]
    blind = metrics.query_values(metrics.tie_classes(np.zeros((3, gallery), np.float32), found), (1, 5, 10))
    chance = metrics.query_values(metrics.chance_classes(np.array([len(one) for one in found]), gallery), (1, 5, 10))
    for name in blind:
        assert blind[name].tolist() == pytest.approx(chance[name].tolist(), abs=1e-12), name


def test_chance_is_what_random_scores_get():
    rng = np.random.default_rng(1)
    positives = [np.array([3, 17, 40])] * 4000
    values = metrics.query_values(metrics.tie_classes(cosines(rng, 4000, 60), positives), (1, 5, 10))
    chance = metrics.query_values(metrics.chance_classes(np.array([3]), 60), (1, 5, 10))
    for name, value in chance.items():
        error = values[name].std() / np.sqrt(len(values[name]))
        assert abs(values[name].mean() - value[0]) < 4 * error, name


def test_a_perfect_ranking_scores_one_everywhere_and_ranks_first():
    rows = unit(np.random.default_rng(0), 30)
    keys = [str(row) for row in range(30)]
    found = metrics.mean_over_queries(metrics.retrieve(rows, rows, relevance.relevance_by_key(keys, keys)).values)
    assert {name: found[name] for name in NAMES if name != "precision_at_10"} == dict.fromkeys(
        [name for name in NAMES if name != "precision_at_10"], pytest.approx(1)
    )
    assert found["median_rank"] == found["mean_rank"] == 1


def test_equal_captions_tie_wherever_they_stand_in_the_file():
    rng = np.random.default_rng(3)
    queries, distinct = unit(rng, 50, 33), unit(rng, 7, 33)
    gallery = distinct[rng.integers(0, 7, size=301)]  # an odd width, so that a matrix product has an uneven last column
    for _, scores in similarity.similarity_blocks(queries, gallery):
        assert all(len(np.unique(row)) <= 7 for row in scores)
    first, inverse = similarity.distinct_rows(gallery)
    np.testing.assert_array_equal(gallery[first][inverse], gallery)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_gallery_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    queries, gallery = unit(rng, 9), unit(rng, 5)[rng.integers(0, 5, size=23)]
    labels = [str(label) for label in rng.integers(0, 4, size=23)]
    asked = [str(label) for label in rng.integers(0, 4, size=9)]
    asked[0] = labels[0]  # one query at least has an answer
    order = rng.permutation(23)
    once = metrics.retrieve(queries, gallery, relevance.relevance_by_key(asked, labels))
    again = metrics.retrieve(queries, gallery[order], relevance.relevance_by_key(asked, [labels[row] for row in order]))
    for name, values in once.values.items():
        assert values.tolist() == pytest.approx(again.values[name].tolist(), abs=1e-9), name


def test_blocks_of_queries_change_nothing(monkeypatch):
    rng = np.random.default_rng(8)
    queries, gallery = unit(rng, 31), unit(rng, 17)
    keys = relevance.relevance_by_key([str(row % 5) for row in range(31)], [str(row % 6) for row in range(17)])
    whole = metrics.retrieve(queries, gallery, keys)
    monkeypatch.setattr(similarity, "BLOCK_VALUES", 4 * 17)  # blocks of four queries, the last one uneven
    parts = metrics.retrieve(queries, gallery, keys)
    for name, values in whole.values.items():
        assert values.tolist() == pytest.approx(parts.values[name].tolist(), abs=1e-6), name


def test_queries_without_an_answer_are_left_out_and_counted():
    rows = unit(np.random.default_rng(2), 4)
    found = metrics.retrieve(rows, rows, relevance.relevance_by_key(["a", "b", None, "a"], ["a", "a", "c", None]))
    assert found.queries.tolist() == [0, 3]
    assert (found.unanswered, found.gallery) == (2, 4)


def test_pairs_answer_in_both_directions_and_count_once():
    listed = [(0, 2), (0, 1), (3, 2), (0, 2)]
    there = relevance.relevance_by_pairs(listed, queries=4, gallery=3)
    back = relevance.relevance_by_pairs([(right, left) for left, right in listed], queries=3, gallery=4)
    assert [there.of(row).tolist() for row in range(4)] == [[1, 2], [], [], [2]]
    assert [back.of(row).tolist() for row in range(3)] == [[], [0], [0, 3]]


def test_no_answer_at_all_is_an_error_and_so_are_wrong_shapes():
    rows = unit(np.random.default_rng(2), 3)
    with pytest.raises(ValueError, match="no query has a relevant row"):
        metrics.retrieve(rows, rows, relevance.relevance_by_key([None] * 3, ["a"] * 3))
    with pytest.raises(ValueError, match="2 x 3"):
        metrics.retrieve(rows, rows, relevance.relevance_by_key(["a"] * 2, ["a"] * 3))


def test_the_recall_curve_ends_at_one_and_passes_through_recall():
    rng = np.random.default_rng(4)
    keys = [str(row) for row in range(50)]
    found = metrics.retrieve(unit(rng, 50), unit(rng, 50), relevance.relevance_by_key(keys, keys))
    curve = dict(metrics.recall_curve(found.values["first_rank"], found.gallery))
    assert curve[1] == pytest.approx(found.values["recall_at_1"].mean())
    assert curve[10] == pytest.approx(found.values["recall_at_10"].mean())
    assert curve[50] == 1


def test_the_chance_curve_is_the_recall_of_one_tie_class():
    positives = np.array([1, 3, 3, 20])
    classes = metrics.chance_classes(positives, 20)
    for k, share in metrics.chance_curve(positives, 20):
        assert share == pytest.approx(metrics.recall(classes, k).mean(), abs=1e-9)
