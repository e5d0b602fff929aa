"""Reports as a user makes them, and what happens when the input does not fit together."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluation import worlds
from setclip_cli.cli.app import app
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.evaluation_set import read_evaluation_set
from setclip_cli.evaluation.gates import judge_gates
from setclip_cli.evaluation.options import EvaluateOptions
from setclip_cli.evaluation.report import Report, read_report
from setclip_cli.evaluation.scoring import metric_keys, score


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a good and a poor model of it, and the report that compares them."""
    root = tmp_path_factory.mktemp("world")
    data = worlds.dataset(root / "data")
    good = worlds.embeddings(root / "good", data, noise=0.4)
    poor = worlds.embeddings(root / "poor", data, noise=1.2, method="clip", seed=1)
    evaluate([good, poor], data, root / "report")
    return root


def report(world: Path) -> dict:
    return json.loads((world / "report" / "report.json").read_text())


def test_the_report_has_its_three_forms_and_the_better_model_is_better(world):
    names = {path.name for path in (world / "report").iterdir()} - {".lock"}
    assert names == {"report.json", "report.md", "report.html", "files.json"}
    good, poor = report(world)["methods"]
    for key in ("image_to_caption/map", "caption_to_image/map", "zero_shot/top1"):
        chance = good["metrics"][key]["chance"]
        assert good["metrics"][key]["mean"] > poor["metrics"][key]["mean"] > chance
        low, high = good["metrics"][key]["interval"]
        assert low <= good["metrics"][key]["mean"] <= high


def test_differences_carry_the_sign_and_a_paired_interval(world):
    content = report(world)
    found = {one["metric"]: one for one in content["differences"]}
    methods = content["methods"]
    for key, one in found.items():
        expected = methods[0]["metrics"][key]["mean"] - methods[1]["metrics"][key]["mean"]
        assert one["difference"] == pytest.approx(expected)
    assert found["image_to_caption/map"]["significant"]
    assert found["image_to_caption/map"]["interval"][0] > 0


def test_names_known_to_clip_benchmark_are_there_under_its_names(world):
    method = report(world)["methods"][0]
    assert method["clip_benchmark"] == {
        "image_retrieval_recall@5": method["metrics"]["caption_to_image/recall_at_5"]["mean"],
        "text_retrieval_recall@5": method["metrics"]["image_to_caption/recall_at_5"]["mean"],
        "acc1": method["metrics"]["zero_shot/top1"]["mean"],
        "acc5": method["metrics"]["zero_shot/top5"]["mean"],
        "mean_per_class_recall": method["metrics"]["zero_shot/mean_per_class_recall"]["mean"],
    }


def test_the_same_input_gives_the_same_bytes(world, tmp_path):
    data = worlds.open_dataset(world / "data")
    again = world / "again"
    evaluate([world / "good", world / "poor"], data, again)
    for name in ("report.json", "report.md", "report.html"):
        first = (world / "report" / name).read_text().replace(str(world / "report"), "OUT")
        assert (again / name).read_text().replace(str(again), "OUT") == first


class Outline(HTMLParser):
    """Collects what a screen reader and a browser would ask of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.addresses: list[str] = []
        self.unnamed: list[str] = []
        self.open: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.addresses += [given[name] for name in ("src", "href") if given.get(name)]
        self.scripts += tag == "script"
        if re.fullmatch(r"h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "img" and not given.get("alt"):
            self.unnamed.append(f"img {given.get('src', '')[:40]}")
        if tag == "th" and "scope" not in given:
            self.unnamed.append("th")
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_is_marked_up_for_screen_readers(world):
    outline = Outline()
    text = (world / "report" / "report.html").read_text()
    outline.feed(text)
    assert outline.open == []
    assert outline.scripts == 0
    assert all(address.startswith("data:") for address in outline.addresses)
    assert not re.search(r"url\(|@import|http-equiv", text)
    assert outline.unnamed == []
    assert outline.levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(outline.levels, outline.levels[1:], strict=False))
    assert text.index('class="summary"') < text.index("<table")


def test_text_of_the_data_cannot_become_markup(tmp_path):
    data = worlds.dataset(tmp_path / "data")
    data = worlds.relabel(
        data, {f"{n:03}.jpg": "<script>alert(1)</script>" for n in range(0, 48, 4)}
        | {f"c{n:03}": "<script>alert(1)</script>" for n in range(0, 60, 4)}
    )  # fmt: skip
    model = worlds.embeddings(tmp_path / "model", data)
    evaluate([model], data, tmp_path / "report")
    text = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_groups_and_pairs_count_as_matches_when_asked_for(world):
    data = worlds.open_dataset(world / "data")
    by_group = evaluate(world / "good", data, world / "by-group", EvaluateOptions(relevance="group")).content
    assert by_group["queries"] == {"image_to_caption": 48, "caption_to_image": 60}
    metrics = by_group["methods"][0]["metrics"]
    assert {"geometry/cka", "geometry/mutual_knn", "geometry/foscttm", "geometry/alignment"} <= metrics.keys()
    assert metrics["image_to_caption/map"]["chance"] < 0.15  # one or two right answers of sixty
    assert metrics["geometry/foscttm"]["mean"] < 0.3


def test_pairs_of_the_split_are_the_only_answers(tmp_path):
    data = worlds.dataset(tmp_path / "data", pairs=[("000.jpg", "c000"), ("001.jpg", "c001"), ("001.jpg", "c005")])
    model = worlds.embeddings(tmp_path / "model", data)
    found = evaluate([model], data, tmp_path / "report", EvaluateOptions(relevance="pairs")).content
    assert found["queries"] == {"image_to_caption": 2, "caption_to_image": 3}
    assert found["unanswered"] == {"image": 46, "caption": 57}


def test_rows_without_a_label_and_lone_classes_are_left_out_and_counted(tmp_path):
    data = worlds.dataset(tmp_path / "data")
    changes: dict[str, str | None] = {"000.jpg": None, "001.jpg": None, "c000": None, "003.jpg": "volcano"}
    data = worlds.relabel(data, changes)
    model = worlds.embeddings(tmp_path / "model", data)
    found = evaluate([model], data, tmp_path / "report").content
    assert found["rows"] == {"image": 46, "caption": 59}
    assert found["excluded"] == {
        "image rows without a label": 2,
        "caption rows without a label": 1,
        "image queries of classes that no caption row has (volcano); kept in the gallery": 1,
    }
    assert found["queries"]["image_to_caption"] == 45
    assert "volcano" in (tmp_path / "report" / "report.html").read_text()


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_the_sentence_or_the_json(world):
    code, out, _ = run(world / "good", world / "data", "--out", world / "cli")
    assert code == 0
    assert out.startswith("For an image, set-clip-plus ranks captions of its class")
    code, out, _ = run(world / "good", world / "data", "--out", world / "cli", "--json")
    assert code == 0
    assert json.loads(out)["schema_version"] == 1


def test_a_gate_that_is_not_met_exits_4_after_the_report_is_written(world):
    out = world / "gated"
    code, stdout, stderr = run(
        world / "good", world / "data", "--out", out,
        "--fail-under", "image_to_caption/map=0.999", "--fail-under", "zero_shot/top1=0.1",
        "--fail-under", "image_to_caption/median_rank=0.5",
    )  # fmt: skip
    assert code == 4
    assert stdout.startswith("For an image")
    assert "image_to_caption/map is 0." in stderr
    assert "wanted 0.999" in stderr
    assert "median_rank is 1" in stderr  # lower is better there
    assert "top1" not in stderr
    gates = json.loads((out / "report.json").read_text())["gates"]
    assert [gate["met"] for gate in gates] == [False, True, False]
    assert run(world / "good", world / "data", "--out", out, "--fail-under", "image_to_caption/map=0.2")[0] == 0


def test_a_missed_gate_still_prints_the_one_json_object(world):
    words = ["--fail-under", "image_to_caption/map=0.999", "--json"]
    code, stdout, stderr = run(world / "good", world / "data", "--out", world / "gated", *words)
    assert code == 4
    assert json.loads(stdout)["gates"][0]["met"] is False
    assert "wanted 0.999" in stderr


def test_a_value_at_the_threshold_meets_the_gate():
    metrics = {
        "a/map": {"mean": 0.5, "lower_is_better": False},
        "a/median_rank": {"mean": 3.0, "lower_is_better": True},
    }
    judged = judge_gates({"a/map": 0.5, "a/median_rank": 3.0}, {"name": "m", "metrics": metrics})
    assert [gate["met"] for gate in judged] == [True, True]
    judged = judge_gates({"a/map": 0.51, "a/median_rank": 2.9}, {"name": "m", "metrics": metrics})
    assert [gate["met"] for gate in judged] == [False, False]


def test_python_gets_a_report_from_names_or_paths_and_checks_its_gates_itself(world):
    options = EvaluateOptions(fail_under=("image_to_caption/map=0.999",))
    found = evaluate(str(world / "good"), str(world / "data"), str(world / "python"), options)
    content = json.loads((world / "python" / "report.json").read_text())
    assert found.content == found.as_json()
    assert json.loads(json.dumps(found.content)) == content
    assert found.metrics["image_to_caption/map"] == content["methods"][0]["metrics"]["image_to_caption/map"]["mean"]
    with pytest.raises(SetClipError, match=r"fail_under"):
        found.check_gates()
    assert read_report(world / "python") == Report(world / "python", content)


@pytest.mark.parametrize("rule", ["label", "group", "pairs"])
@pytest.mark.parametrize(("images", "captions"), [(1, 1), (2, 3), (12, 20)])
def test_the_keys_known_before_scoring_are_those_of_the_scores(tmp_path, rule, images, captions):
    listed = [(f"{n:03}.jpg", f"c{n:03}") for n in range(min(images, captions))]
    data = worlds.dataset(tmp_path / "data", images=images, captions=captions, pairs=listed)
    rows = read_evaluation_set(data, "image", "caption", split="test", rule=rule)
    left, right = np.eye(64, 8, dtype=np.float32)[:images], np.eye(64, 8, dtype=np.float32)[:captions]
    assert metric_keys(rows) == list(score(left, right, rows).metrics)
    left_rows, right_rows = len(rows.left.ids), len(rows.right.ids)
    assert (left_rows, right_rows) == (images, captions)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fail-under", "image_to_caption/map"], "KEY=VALUE"),
        (
            ["--fail-under", "protein_to_caption/map=0.1"],
            "will not have such a metric (did you mean 'image_to_caption/map'",
        ),
        (["--relevance", "labels"], "'label', 'group', 'pairs'"),
        (["--task-set", "eurosad"], "did you mean 'eurosat'"),
        (["--task-set", "eurosat"], "prompts need the caption tower"),
        (["--task-set", "enzyme_class"], "classifies protein rows"),
    ],
)
def test_a_bad_flag_exits_2_and_says_what_was_meant(world, words, told):
    code, stdout, stderr = run(world / "good", world / "data", "--out", world / "flags", *words)
    assert (code, stdout) == (2, "")
    assert told in stderr
    assert not (world / "flags").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fail-under", "image_to_caption/mAP=0.4"], "did you mean 'image_to_caption/map'"),
        (["--fail-under", "IMAGE_TO_CAPTION/MRR=0.4"], "did you mean 'image_to_caption/mrr'"),
        (["--fail-under", "mAP=0.4"], "/map'"),
        (["--fail-under", "image_to_caption/R@5=0.4"], "did you mean 'image_to_caption/recall_at_5'"),
        (["--fail-under", "image_to_captions/recall@10=0.4"], "did you mean 'image_to_caption/recall_at_10'"),
        (["--fail-under", "zero_shot/top-1=0.4"], "did you mean 'zero_shot/top1'"),
        (["--fail-under", "image_to_caption/map=nan"], "'nan' is not a number"),
        (["--fail-under", "image_to_caption/median_rank=inf"], "'inf' is not a number"),
        (["--fail-under", "image_to_caption/map=0,4"], "'0,4' is not a number"),
        (["--fail-under", "=0.4"], "KEY=VALUE"),
        (["--fail-under", "image_to_caption/map=40"], "write image_to_caption/map=0.4"),
        (["--fail-under", "zero_shot/top1=0.4", "--fail-under", "zero_shot/top1=0.5"], "has a threshold already"),
        (["--baselines", "asfi,cca"], "--baselines asfi: is not a method (did you mean 'asif'?)"),
        (["--baselines", "CLIP"], "did you mean 'clip'"),
        (["--baselines", "asif,"], "a name between commas is missing"),
        (["--baselines", "none,asif"], "or none alone"),
        (["--relevance", "grup"], "--relevance"),
        (["--task-set", "eurosad"], "did you mean 'eurosat'"),
    ],
)
def test_a_slip_is_told_before_a_path_is_looked_at(words, told):
    code, stdout, stderr = run("no-run", "no-data", "--out", "no-out", *words)
    assert (code, stdout) == (2, "")
    assert told in stderr
    assert "no-run" not in stderr


def test_a_slip_is_told_before_torch_is_loaded():
    code = (
        "import sys; from setclip_cli.cli.app import app\n"
        "for words in (['--baselines', 'x'], ['--fail-under', 'x=1'], ['--task-set', 'x'], ['--relevance', 'x']):\n"
        "    try: app(['evaluate', 'a', 'b', '--out', 'c', *words])\n"
        "    except SystemExit as end: assert end.code == 2, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_options_in_python_take_no_text_for_a_list():
    for given in ({"baselines": "asif"}, {"fail_under": "zero_shot/top1=0.5"}):
        with pytest.raises(SetClipError, match="is text, not a list"):
            EvaluateOptions(**given)


def fails(*arguments) -> str:
    with pytest.raises(SetClipError) as caught:
        evaluate(*arguments)
    return str(caught.value)


def test_a_split_without_labels_asks_for_them(tmp_path):
    data = worlds.dataset(tmp_path / "data")
    model = worlds.embeddings(tmp_path / "model", data)
    data = worlds.relabel(data, dict.fromkeys([f"c{n:03}" for n in range(60)]))
    told = fails([model], data, tmp_path / "report", EvaluateOptions(relevance="label"))
    assert "no caption row of split 'test' has a label" in told
    assert not (tmp_path / "report").exists()


def test_a_pair_that_names_a_missing_row_is_named(tmp_path):
    data = worlds.dataset(tmp_path / "data", pairs=[("000.jpg", "c000"), ("001.jpg", "c999")])
    model = worlds.embeddings(tmp_path / "model", data)
    told = fails([model], data, tmp_path / "report", EvaluateOptions(relevance="pairs"))
    assert "names the caption 'c999', which split 'test' lacks" in told


def test_no_common_label_is_an_error_not_a_report_of_zeros(tmp_path):
    data = worlds.dataset(tmp_path / "data")
    data = worlds.relabel(data, {f"c{n:03}": "elsewhere" for n in range(60)})
    model = worlds.embeddings(tmp_path / "model", data)
    told = fails([model], data, tmp_path / "report", EvaluateOptions(relevance="label"))
    assert "no image and caption have the same label" in told


def test_embeddings_of_two_widths_or_of_raw_backbones_share_no_space(tmp_path):
    data = worlds.dataset(tmp_path / "data")
    uneven = worlds.embeddings(tmp_path / "uneven", data, widths=(8, 9))
    assert "8 wide for image rows, 9 for caption rows" in fails([uneven], data, tmp_path / "report")
    raw = worlds.embeddings(tmp_path / "raw", data, encoder=False)
    assert "raw features of backbones" in fails([raw], data, tmp_path / "report")


def test_small_types_are_scored_as_the_rows_that_they_stand_for(tmp_path):
    data = worlds.dataset(tmp_path / "data")
    metrics = {}
    for dtype in ("float32", "int8", "ubinary"):
        model = worlds.embeddings(tmp_path / dtype, data, dtype=dtype)
        found = evaluate([model], data, tmp_path / "report" / dtype).content["methods"][0]["metrics"]
        metrics[dtype] = found["image_to_caption/map"]["mean"]
    assert metrics["int8"] == pytest.approx(metrics["float32"], abs=0.01)
    assert 0.4 < metrics["ubinary"] < metrics["float32"]  # eight bits a row; chance is 0.27


@pytest.mark.parametrize(("value", "says"), [(math.nan, "not finite"), (math.inf, "not finite"), (0.0, "zero")])
def test_an_embedding_that_cannot_be_compared_is_named(tmp_path, value, says):
    data = worlds.dataset(tmp_path / "data")
    model = worlds.embeddings(tmp_path / "model", data, spoil={"c007": value})
    assert f"1 of its rows have an embedding that is {says}" in fails([model], data, tmp_path / "report")


def test_a_folder_of_something_else_is_named(world, tmp_path):
    data = worlds.open_dataset(world / "data")
    assert "no such folder" in fails([tmp_path / "nothing"], data, tmp_path / "report")
    assert "is not a RUN" in fails([world / "data"], data, tmp_path / "report")
    assert "given more than once" in fails([world / "good", world / "good"], data, tmp_path / "report")
    assert "is not a REPORT folder" in fails([world / "good"], data, world / "data")


def test_embeddings_of_another_dataset_lack_its_rows(world, tmp_path):
    other = worlds.dataset(tmp_path / "data", images=52)
    told = fails([world / "good"], other, tmp_path / "report")
    assert "lacks 4 of the dataset's 52 image rows, first '048.jpg'" in told


@pytest.mark.parametrize(("images", "captions"), [(1, 1), (2, 1), (3, 5)])
def test_the_smallest_test_sets_without_any_label_still_make_a_report(tmp_path, images, captions):
    listed = [(f"{n:03}.jpg", f"c{n:03}") for n in range(min(images, captions))]
    data = worlds.dataset(tmp_path / "data", images=images, captions=captions, pairs=listed)
    ids = [f"{n:03}.jpg" for n in range(images)] + [f"c{n:03}" for n in range(captions)]
    model = worlds.embeddings(tmp_path / "model", data)
    data = worlds.relabel(data, dict.fromkeys(ids))
    found = evaluate([model], data, tmp_path / "report", EvaluateOptions(relevance="pairs")).content
    assert found["classes"] == []
    assert "zero_shot/top1" not in found["methods"][0]["metrics"]
    assert "NaN" not in (tmp_path / "report" / "report.json").read_text()
