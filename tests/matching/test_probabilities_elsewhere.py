"""Probabilities beside the hits of a search, and how right they are in a report."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from paired_vectors import views, write_pools, write_recipe
from small_world import invoke, run_ok


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("elsewhere")
    os.environ["SETCLIP_CACHE"] = str(root / "cache")
    write_pools(root / "data", rows=500, known=500, noise=0.5, splits=("train", "test"))
    run_ok("align", write_recipe(root, "pairs = 150"), "--data", root / "data", "--out", root / "run")
    run_ok("embed", root / "run", root / "data", "--out", root / "embeddings")
    return root


def search(world: Path, query: Path, *more: object) -> dict[str, object]:
    words = ("search", world / "embeddings", query, "--as", "audio", "--in", "words", "--json", *more)
    found: dict[str, object] = json.loads(run_ok(*words))
    return found


def test_hits_have_probabilities_that_fall_with_the_rank(world: Path, tmp_path: Path) -> None:
    right, expected = 0, 0.0
    for row, vector in enumerate(views(500, 2, 0.5)[0][:40]):
        np.save(tmp_path / "query.npy", vector)
        hits = search(world, tmp_path / "query.npy", "--split", "test", "--top", 4)["hits"]
        assert isinstance(hits, list)
        judged = [hit["probability"] for hit in hits]
        assert judged == sorted(judged, reverse=True)
        assert all(0 <= one <= 1 for one in judged)
        right += hits[0]["id"] == f"test-w{row}"
        expected += judged[0]
    assert abs(right - expected) / 40 < 0.2


def test_more_rows_make_a_hit_less_probable(world: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "query.npy", views(500, 2, 0.5)[0][3])
    small, large = (search(world, tmp_path / "query.npy", "--top", 1, *more) for more in (("--split", "test"), ()))
    assert small["searched"] == 500
    assert large["searched"] == 1000
    first = [found["hits"][0] for found in (small, large)]  # type: ignore[index]
    if first[0]["id"] == first[1]["id"]:
        assert first[1]["probability"] < first[0]["probability"]


def test_the_text_for_a_person_says_what_the_percentages_are(world: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "query.npy", views(500, 2, 0.5)[0][0])
    told = run_ok("search", world / "embeddings", tmp_path / "query.npy", "--as", "audio", "--in", "words")
    assert "%" in told
    assert "the probability that a row is right" in told


def test_rows_of_the_own_modality_have_none(world: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "query.npy", views(500, 2, 0.5)[0][0])
    words = ("search", world / "embeddings", tmp_path / "query.npy", "--as", "audio", "--in", "audio", "--json")
    found = json.loads(run_ok(*words))
    assert {hit["probability"] for hit in found["hits"]} == {None}
    assert found["why_no_probability"] == ""


def test_without_a_calibration_a_search_says_why(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "run", tmp_path / "run")
    (tmp_path / "run" / "calibration.json").unlink()
    np.save(tmp_path / "query.npy", views(500, 2, 0.5)[0][0])
    found = search(world, tmp_path / "query.npy", "--run", tmp_path / "run")
    assert {hit["probability"] for hit in found["hits"]} == {None}  # type: ignore[attr-defined]
    assert "align again" in str(found["why_no_probability"])


def test_a_report_says_how_right_the_probabilities_are(world: Path, tmp_path: Path) -> None:
    words = ("evaluate", world / "run", world / "data", "--out", tmp_path / "report", "--relevance", "pairs")
    gates = ("--fail-under", "trust/ece=0.3", "--fail-under", "trust/coverage_90=0.8", "--baselines", "cca")
    content = json.loads(run_ok(*words, *gates, "--json"))
    found = content["methods"][0]["metrics"]
    assert found["trust/ece"]["mean"] < 0.15
    assert found["trust/ece"]["lower_is_better"]
    assert found["trust/ece"]["interval"][0] <= found["trust/ece"]["interval"][1]
    for coverage in (80, 90, 95):
        assert abs(found[f"trust/coverage_{coverage}"]["mean"] - coverage / 100) < 0.12
        assert 0 < found[f"trust/set_share_{coverage}"]["mean"] < 0.5
    assert sum(one["answers"] for one in content["trust"]["reliability"]) == 1000
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Reliability" in page
    assert "expected calibration error" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    words = ("evaluate", world / "run", world / "data", "--out", tmp_path / "other", "--baselines", "none")
    code, _, stderr = invoke(*words, "--fail-under", "trust/ece=0.0001")
    assert code == 4
    assert "trust/ece" in stderr


def test_a_report_of_labels_or_of_rows_that_made_the_calibration_has_none(world: Path, tmp_path: Path) -> None:
    words = ("evaluate", world / "run", world / "data", "--out", tmp_path / "report", "--baselines", "none", "--json")
    content = json.loads(run_ok(*words, "--split", "train"))
    assert "trust" not in content
    assert not any(key.startswith("trust/") for key in content["methods"][0]["metrics"])
    code, _, stderr = invoke(*words[:-1], "--split", "train", "--fail-under", "trust/ece=0.1")
    assert code == 2
    assert "will not have such a metric" in stderr
