"""What goes into the numbers of one model: which rows, which side, which resamples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import skew

from evaluation import worlds
from evaluation.test_metrics import unit
from setclip_cli.dataset.modality import KINDS_OF_NAMES
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.embedding.writing import write_index
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation import bootstrap, examples, metric_names, scoring
from setclip_cli.evaluation.embedded_sides import _in_order, ids_without_embedding
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.evaluation_set import EvaluationSet, Side
from setclip_cli.evaluation.metrics import mean_over_queries, retrieve
from setclip_cli.evaluation.model_folders import open_model_folders
from setclip_cli.evaluation.relevance import relevance_by_key
from setclip_cli.evaluation.report_content import ScoredModel, report_content

RNG = np.random.default_rng(5)
LABELS = ["a"] * 20 + ["b"] * 6 + ["c"] * 4  # classes of unequal size


def side(modality: str, labels: list[str | None], payloads: list[str] | None = None) -> Side:
    ids = [f"{modality}{row}" for row in range(len(labels))]
    return Side(modality, KINDS_OF_NAMES[modality], ids, labels, list(ids), payloads or ids)


@pytest.fixture(scope="module")
def scored() -> tuple[EvaluationSet, np.ndarray, np.ndarray, scoring.Scores]:
    """Rows whose known partners are in another order on the right side."""
    partner = np.random.default_rng(1).permutation(30)
    rows = EvaluationSet(
        "test", "pairs", side("image", LABELS), side("caption", [LABELS[row] for row in np.argsort(partner)]),
        [(row, int(partner[row])) for row in range(30)], {},
    )  # fmt: skip
    left = unit(RNG, 30)
    right = (left + 0.1 * RNG.normal(size=left.shape).astype(np.float32))[np.argsort(partner)]
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return rows, left, right, scoring.score(left, right, rows)


def test_partners_are_those_of_the_pairs_not_of_the_row_numbers(scored):
    found = scored[3].metrics
    assert found["geometry/foscttm"].value < 0.02
    assert found["geometry/cka"].value > 0.9
    assert found["image_to_caption/recall_at_1"].value > 0.9


def test_mean_recall_is_the_mean_of_both_directions(scored):
    hub = np.repeat(unit(RNG, 1), 30, axis=0)
    found = scoring.score(unit(RNG, 30), (unit(RNG, 30) + hub) / 2, scored[0]).metrics
    first, other = (
        np.mean([found[f"{way}/recall_at_{k}"].value for k in (1, 5, 10)])
        for way in ("image_to_caption", "caption_to_image")
    )
    assert first != pytest.approx(other)
    assert found["retrieval/mean_recall"].value == pytest.approx((first + other) / 2)


def test_median_and_mean_rank_are_those_of_the_first_right_answer():
    means = mean_over_queries({"first_rank": np.array([1.0, 1, 2, 9])})
    assert means == {"median_rank": 1.5, "mean_rank": 3.25}


def test_hubness_of_a_side_counts_how_often_its_rows_are_found(scored):
    _, left, right, scores = scored
    for name, queries, gallery in (("right", left, right), ("left", right, left)):
        nearest = np.argsort(-(queries @ gallery.T), axis=1)[:, :10]
        expected = skew(np.bincount(nearest.ravel(), minlength=len(gallery)).astype(float))
        assert scores.metrics[f"geometry/hubness_{name}"].value == pytest.approx(expected)


def test_mean_per_class_recall_weighs_classes_alike(scored):
    rows, left, right, _ = scored
    found = scoring.score(np.where(np.array(LABELS)[:, None] == "a", left, -left), right, rows)
    recalls = found.zero_shot.per_class()
    assert found.metrics["zero_shot/mean_per_class_recall"].value == pytest.approx(recalls.mean())
    assert abs(recalls.mean() - found.metrics["zero_shot/top1"].value) > 0.05


def test_each_resampled_distribution_lies_around_its_value(scored):
    rows = EvaluationSet("test", "label", side("image", LABELS), side("caption", LABELS), [], {})
    left, right = unit(RNG, 30), unit(RNG, 30)
    right[:3] = right[0]  # hubs, and unequal shares of the two sides
    for key, metric in scoring.score(left, right, rows).metrics.items():
        assert len(metric.resampled) == bootstrap.RESAMPLES, key
        assert metric.resampled.std() > 0 or metric.value in (0, 1), key
        if not key.startswith("geometry/") and not key.endswith("median_rank"):  # the bootstrap of a mean is unbiased
            assert abs(np.nanmean(metric.resampled) - metric.value) < max(0.5 * metric.resampled.std(), 1e-9), key
    sdd = scoring.score(left, right, rows).metrics["geometry/sdd"]
    shares = scoring.geometry.sdd_shares(left, right)
    assert sdd.resampled.mean() == pytest.approx(sum(share.mean() for share in shares), abs=sdd.resampled.std())
    assert sdd.resampled.var() == pytest.approx(sum(share.var() / 30 for share in shares), rel=0.2)


def test_other_seeds_give_other_resamples():
    first, other = (next(bootstrap.resample_counts(50, seed=seed)).tolist() for seed in (0, 1))
    assert first != other


def test_distances_and_ranks_are_better_when_lower():
    lower = {"a/median_rank", "a/mean_rank", *(f"geometry/{name}" for name in (
        "modality_gap", "sdd", "mmd", "uniformity_left", "hubness_right", "foscttm", "alignment"))}  # fmt: skip
    higher = {"a/map", "a/mrr", "a/recall_at_1", "zero_shot/top1", "geometry/cka", "geometry/mutual_knn"}
    assert {key for key in lower | higher if metric_names.lower_is_better(key)} == lower


def test_a_row_with_several_partners_counts_once_with_the_first():
    rows = EvaluationSet("test", "group", side("image", LABELS), side("caption", LABELS), [(0, 4), (0, 9), (2, 1)], {})
    assert rows.first_partners() == [(0, 4), (2, 1)]


def test_embeddings_are_taken_by_id_and_copies_share_the_first_one():
    ours = side("caption", ["a"] * 4, payloads=["x", "y", "x", "z"])
    order = [2, 0, 3, 1]
    stored = np.eye(4, dtype=np.float32) * [[1], [2], [3], [4]]
    found = _in_order(Path("model"), [ours.ids[row] for row in order], stored[order].astype(np.float32), ours)
    np.testing.assert_array_equal(found, np.eye(4)[[0, 1, 0, 3]])
    with pytest.raises(SetClipError, match="lacks 1 of the dataset's 4 caption rows, first 'caption3'"):
        _in_order(Path("model"), ours.ids[:3], stored[:3], ours)


def test_rows_that_one_folder_could_not_embed_are_scored_for_none(tmp_path):
    data = worlds.dataset(tmp_path / "data")
    folders = [worlds.embeddings(tmp_path / name, data, noise=0.4) for name in ("whole", "partial")]
    index = open_embeddings(folders[1]).index
    bad = {"image": {"003.jpg": "broken"}, "caption": {"c005": "empty", "c006": "empty"}}
    shards = [shard.model_copy(update={"bad": bad[shard.modality]}) for shard in index.shards]
    write_index(folders[1], index.model_copy(update={"shards": shards, "model": "0" * 64}))
    models = open_model_folders(folders)
    assert ids_without_embedding(models, "test") == {name: set(ids) for name, ids in bad.items()}
    assert ids_without_embedding(models, "train") == {}


def test_a_model_differs_from_another_with_the_same_answers_by_exactly_nothing(tmp_path):
    data = worlds.dataset(tmp_path / "data")
    folders = [worlds.embeddings(tmp_path / name, data, noise=0.6) for name in ("one", "two")]
    write_index(folders[1], open_embeddings(folders[1]).index.model_copy(update={"model": "0" * 64}))
    differences = evaluate(folders, data, tmp_path / "report").content["differences"]
    assert {one["difference"] for one in differences} == {0.0}
    assert {tuple(one["interval"]) for one in differences} == {(0.0, 0.0)}
    assert not any(one["significant"] for one in differences)


def test_runs_of_one_name_are_averaged_with_their_standard_deviation(tmp_path, scored):
    rows, left, right, scores = scored
    data = worlds.dataset(tmp_path / "data", images=1, captions=1)
    model = open_model_folders([worlds.embeddings(tmp_path / "model", data)])[0]
    again = scoring.score(left[::-1].copy(), right, rows)
    members = [ScoredModel(replace(model, name=name), "m", (left, right), None, found, {})
               for name, found in (("x", scores), ("y", again))]  # fmt: skip
    metric = report_content(members, rows, data, prompted=False)["methods"][0]["metrics"]["image_to_caption/map"]
    a, b = (one.scores.metrics["image_to_caption/map"].value for one in members)
    assert metric["mean"] == pytest.approx((a + b) / 2)
    assert metric["sd"] == pytest.approx(abs(a - b) / 2**0.5)


def test_the_best_examples_have_the_highest_precision_and_the_worst_the_lowest():
    queries, gallery = unit(RNG, 30), unit(RNG, 30)
    relevance = relevance_by_key(LABELS, LABELS)
    ranking = retrieve(queries, gallery, relevance)
    best, worst = examples.best_and_worst_queries(queries, gallery, relevance, ranking, side("image", LABELS))
    precision = ranking.values["map"]
    assert best[0].average_precision == precision.max()
    assert worst[0].average_precision == precision.min()
    for found in (*best, *worst):
        scores = gallery @ queries[found.query]
        assert found.answers[0].row == scores.argmax()
        assert found.best_relevant.rank == 1 + (scores > scores[relevance.of(found.query)].max()).sum()
