"""Studies: what a grid becomes, what is refused, and what a table says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation import worlds
from scipy import stats
from typer.testing import CliRunner

from setclip_cli.cli.app import app
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.study import report, run, workers
from setclip_cli.study.planned_runs import PlannedRun, plan_runs
from setclip_cli.study.study_file import load_study

REPO = Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPO / "studies").glob("*.toml"))
BASE = REPO / "recipes" / "quickstart.toml"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    metrics = "" if "metrics" in text else 'metrics = ["image_to_caption/map"]\n'
    path.write_text(f'schema_version = 1\nrecipe = "{BASE}"\n{metrics}{text}')
    return path


def planned_runs(path: Path) -> list[PlannedRun]:
    return plan_runs(load_study(path), path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_study_plans_and_no_run_contradicts_itself(path):
    planned = planned_runs(path)
    assert len(planned) > 5
    assert not [one.contradiction for one in planned if one.contradiction]
    assert len({one.name for one in planned}) == len(planned)
    assert "setclip study" in path.read_text()


def test_axes_are_crossed_and_seeds_repeat_each_combination(tmp_path):
    path = write(tmp_path, 'seeds = 2\n[axes]\nmethod = ["clip", "set-clip"]\npairs = [7, 21]\n')
    planned = planned_runs(path)
    assert [(one.combination, one.seed) for one in planned][:3] == [
        ("clip, pairs=7", 0),
        ("clip, pairs=7", 1),
        ("clip, pairs=21", 0),
    ]
    assert len(planned) == 8
    assert planned[-1].recipe is not None
    assert (planned[-1].recipe.method, planned[-1].recipe.pairs, planned[-1].recipe.seed) == ("set-clip", 21, 1)


def test_a_dotted_axis_reaches_into_its_section(tmp_path):
    path = write(tmp_path, "seeds = 1\n[axes]\nobjective.sdd.weight = [0, 1]\n")
    assert [one.recipe.objective.sdd.weight for one in planned_runs(path) if one.recipe] == [0, 1]


def test_a_changed_base_recipe_changes_the_names_of_the_runs(tmp_path):
    path = write(tmp_path, 'seeds = 1\n[axes]\nmethod = ["clip"]\n')
    (tmp_path / "other.toml").write_text(
        BASE.read_text().replace("schema_version = 2", "schema_version = 2\nensemble = 2")
    )
    other = tmp_path / "other-study.toml"
    other.write_text(path.read_text().replace(str(BASE), "other.toml"))
    assert planned_runs(path)[0].name != planned_runs(other)[0].name


def test_a_combination_that_contradicts_itself_is_not_possible_and_says_why(tmp_path):
    path = write(tmp_path, 'seeds = 1\n[axes]\nmethod = ["clip", "set-clip-plus"]\npairs = [0, 7]\n')
    found = {one.combination: one.contradiction for one in planned_runs(path)}
    assert "learns from pairs alone" in found["clip, pairs=0"]
    assert [column for column, why in found.items() if why] == ["clip, pairs=0"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[axes]\nobjective.sddd.weight = [0, 1]\n", "did you mean 'sdd'"),
        ('[axes]\n"optim.lr" = ["fast"]\n', "optim.lr"),
        ("[axes]\nseed = [0, 1]\n", "seeds = COUNT"),
        ('metrics = ["image_to_caption/mAP"]\n[axes]\npairs = [7]\n', "did you mean 'image_to_caption/map'"),
        ("", "axes or variants"),
        ("[axes]\npairs = []\n", "axes.pairs"),
        ("[axes]\npairs = [7, 7]\n", "more than once"),
        ("[axis]\npairs = [7]\n", "axis"),
        ('[[variants]]\nname = "x"\nset = { methode = "clip" }\n', "did you mean 'method'"),
    ],
)
def test_a_wrong_study_exits_2_and_names_the_key(tmp_path, text, told):
    worlds.dataset(tmp_path / "data", images=4, captions=4)
    path = write(tmp_path, text)
    words = ["study", str(path), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_paired_difference_is_scipys_paired_t_test():
    first, other = {0: 0.50, 1: 0.55, 2: 0.45, 9: 0.1}, {2: 0.56, 0: 0.58, 1: 0.60}  # not in one order
    found = report.paired_difference(first, other)
    seeds = [0, 1, 2]
    test = stats.ttest_rel([other[seed] for seed in seeds], [first[seed] for seed in seeds])
    interval = test.confidence_interval(0.95)
    assert found["p"] == pytest.approx(test.pvalue)
    assert found["interval"] == pytest.approx([interval.low, interval.high])
    assert report.paired_difference({0: 1.0}, {0: 2.0}) == {"difference": 1.0, "interval": None, "p": None}
    assert report.paired_difference({0: 1.0}, {1: 2.0})["difference"] is None


class Fake:
    """In place of training and scoring: a known metric for each run, and runs that fail."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.ran: list[str] = []

    def __call__(self, planned, folder, *, threads):
        self.ran.append(planned.name)
        if self.failing and self.failing in planned.name:
            return "the weights are missing"
        gain = {"clip": 0.0, "set-clip": 0.1}[planned.recipe.method] + planned.recipe.pairs / 100
        found = {"image_to_caption/map": 0.3 + gain + 0.01 * planned.seed, "geometry/sdd": 2.0 - gain}
        scores = {**folder.scored_on(), "after": found, "before": dict.fromkeys(found, 3.0)}
        folder.scores_path(planned).write_text(json.dumps(scores))
        return ""


GRID = 'seeds = 3\n[axes]\nmethod = ["clip", "set-clip"]\npairs = [7, 21]\n'


def test_the_table_has_means_spreads_and_differences_and_the_plots_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "train_and_score", Fake())
    data = worlds.dataset(tmp_path / "data", images=4, captions=4)
    result = run.run_study(write(tmp_path, GRID), data, tmp_path / "out")
    assert (result.trained, result.reused, result.failed) == (12, 0, 0)
    columns = {column["name"]: column["metrics"]["image_to_caption/map"] for column in result.content["columns"]}
    assert columns["clip, pairs=7"]["mean"] == pytest.approx(0.38)
    assert columns["clip, pairs=7"]["sd"] == pytest.approx(0.01)
    assert columns["set-clip, pairs=21"]["difference"] == pytest.approx(0.24)
    assert result.content["columns"][0]["metrics"]["geometry/sdd"]["before"] == 3.0
    text = (tmp_path / "out" / "study.md").read_text()
    assert "| clip, pairs=7 | 0.380 ± 0.010 |  |" in text
    assert "| set-clip, pairs=21 | 0.620 ± 0.010 | +0.240 |" in text
    drawing = (tmp_path / "out" / "image_to_caption-map.svg").read_text()
    assert "set-clip 0.480 at 7, 0.620 at 21" in drawing


def test_finished_runs_are_kept_and_another_dataset_is_scored_anew(tmp_path, monkeypatch):
    data = worlds.dataset(tmp_path / "data", images=4, captions=4)
    path = write(tmp_path, GRID)
    monkeypatch.setattr(workers, "train_and_score", Fake())
    run.run_study(path, data, tmp_path / "out")
    once = (tmp_path / "out" / "study.json").read_bytes()
    again = Fake()
    monkeypatch.setattr(workers, "train_and_score", again)
    (tmp_path / "out" / "study.json").unlink()
    removed = next((tmp_path / "out" / "scores").glob("clip_pairs-7*seed-1*.json"))
    removed.unlink()
    result = run.run_study(path, data, tmp_path / "out")
    assert again.ran == [removed.stem]
    assert (result.trained, result.reused) == (1, 11)
    assert (tmp_path / "out" / "study.json").read_bytes() == once
    other = worlds.dataset(tmp_path / "other", images=8, captions=4)
    assert run.run_study(path, other, tmp_path / "out").trained == 12


def test_a_run_that_fails_is_shown_the_others_go_on_and_the_exit_code_is_1(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "train_and_score", Fake(failing="set-clip_pairs-21"))
    worlds.dataset(tmp_path / "data", images=4, captions=4)
    words = ["study", str(write(tmp_path, GRID)), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "3 of 12 runs failed" in result.stderr
    assert "the weights are missing" in result.stderr
    text = (tmp_path / "out" / "study.md").read_text()
    assert "| set-clip, pairs=21 | failed: the weights are missing |" in text
    assert "| clip, pairs=21 | 0.520 ± 0.010 |" in text


def test_a_bug_in_a_run_is_a_failed_run(tmp_path):
    data = worlds.dataset(tmp_path / "data", images=4, captions=4)
    path = write(tmp_path, GRID.replace("seeds", 'split = "nowhere"\nseeds'))
    folder = workers.StudyFolder(tmp_path / "out", load_study(path), data.root, data.identity(), "label")
    assert workers.train_and_score(planned_runs(path)[0], folder, threads=None)


def test_a_recipe_with_a_name_that_no_file_can_have_is_a_mistake_in_the_study(tmp_path):
    path = write(tmp_path, GRID)
    path.write_text(path.read_text().replace(str(BASE), "a\\u0000b"))
    with pytest.raises(SetClipError, match=r"study.toml: recipe: .* NUL character") as caught:
        planned_runs(path)
    assert caught.value.exit_code == 2


def test_a_folder_of_something_else_is_refused(tmp_path):
    data = open_dataset(worlds.dataset(tmp_path / "data", images=4, captions=4).root)
    with pytest.raises(SetClipError, match="is not a study"):
        run.run_study(write(tmp_path, GRID), data, tmp_path / "data")
