"""Bootstrap intervals: against scipy's and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from setclip_cli.evaluation import bootstrap
from setclip_cli.evaluation.bootstrap import confidence_interval, resampled_means

VALUES = np.random.default_rng(2).exponential(size=201)


def test_the_interval_of_a_mean_is_close_to_scipys():
    found = confidence_interval(resampled_means({"map": VALUES})["map"])
    theirs = scipy_bootstrap((VALUES,), np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    assert found == pytest.approx((theirs.low, theirs.high), abs=0.03)


@pytest.mark.parametrize("rows", [201, 10])  # an even number has the mean of the middle two as its median
def test_medians_are_those_of_the_resampled_rows(rows):
    values = VALUES[:rows]
    found = resampled_means({"rank": values}, medians={"median_rank": "rank"}, resamples=25, seed=4)["median_rank"]
    for drawn, value in zip(bootstrap.resample_counts(rows, resamples=25, seed=4), found, strict=True):
        assert value == pytest.approx(np.median(np.repeat(values, drawn.astype(int))))


def test_equal_seeds_resample_the_same_queries_so_differences_are_paired():
    difference = resampled_means({"map": VALUES + 0.25})["map"] - resampled_means({"map": VALUES})["map"]
    assert difference.tolist() == pytest.approx([0.25] * bootstrap.RESAMPLES)


def test_ninety_five_percent_intervals_cover_the_truth_about_that_often():
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        low, high = confidence_interval(resampled_means({"x": rng.normal(size=60)}, resamples=200, seed=trial)["x"])
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_resamples_from_the_cache_are_those_drawn_again(monkeypatch):
    kept = resampled_means({"map": VALUES}, resamples=20, seed=3)["map"].tolist()
    monkeypatch.setattr(bootstrap, "_CACHED_VALUES", 0)
    assert resampled_means({"map": VALUES}, resamples=20, seed=3)["map"].tolist() == kept
