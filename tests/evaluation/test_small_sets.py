"""Reports on the smallest splits: one row a side, one class, one query; every number in the report is a number."""

import itertools
import json
import re
import warnings

import pytest

from evaluation import worlds
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.options import EvaluateOptions


@pytest.mark.parametrize("rule", ["label", "group", "pairs"])
@pytest.mark.parametrize(
    ("images", "captions"), [(1, 1), (1, 2), (2, 1), (3, 3), pytest.param(5, 5, marks=pytest.mark.slow)]
)
def test_a_report_on_a_few_rows_is_whole_or_refused(rule, images, captions, tmp_path):
    for classes, noise in itertools.product((1, 2), (0.0, 0.6)):  # without noise all rows of a class are equal
        place = tmp_path / f"{classes}-{noise}"
        data = worlds.dataset(place / "data", images=images, captions=captions, pairs=[("000.jpg", "c000")])
        if classes == 1:
            ids = [f"{number:03}.jpg" for number in range(images)] + [f"c{number:03}" for number in range(captions)]
            data = worlds.relabel(data, dict.fromkeys(ids, "forest"))
        model = worlds.embeddings(place / "model", data, noise=noise)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                report = evaluate(model, data, place / "report", EvaluateOptions(relevance=rule, baselines=()))
            except SetClipError as error:
                pytest.fail(str(error))
        json.dumps(report.content, allow_nan=False)
        assert report.metrics["image_to_caption/recall_at_10"] == 1.0  # beyond the gallery
        assert ("zero_shot/top1" in report.metrics) == (classes == 2 and min(images, captions) > 1)
        assert (place / "report" / "report.html").exists()


def test_a_heading_has_something_under_it_and_a_tie_is_called_one(tmp_path):
    """Three queries are all among the best; two models with the same answers are neither above nor below."""
    data = worlds.dataset(tmp_path / "data", images=3, captions=3)
    models = [worlds.embeddings(tmp_path / name, data, noise=noise) for name, noise in (("one", 0.0), ("other", 0.01))]
    report = evaluate(models, data, tmp_path / "report", EvaluateOptions(relevance="group", baselines=()))
    tie = (
        r"precision is as high, to three digits, as that of set-clip-plus \(embeddings=other\), the other method here "
    )
    assert re.search(tie + r"\(95% interval [+-]0\.000 to [+-]0\.000\)\.", report.content["summary"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count(": the best results") == 2
    assert "the worst results" not in page
