"""RUNs as they come from `align`: before and after training, seeds averaged, baselines fitted, studies run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import esm2_checkpoint, sentence_folder
from typer.testing import CliRunner

from setclip_cli.cli.app import app
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation import baselines
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.options import EvaluateOptions
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.study.run import run_study
from setclip_cli.training.align import align

pytestmark = pytest.mark.slow  # three alignments through ESM-2 and a sentence transformer, however small

FAMILIES = {"kinase": "GKKLV", "transporter": "LLIFA", "protease": "HDSCW"}
RECIPE = """
schema_version = 2
method = "set-clip-plus"
projection = {{ dim = 16, pca = 8 }}
train = {{ steps = 60, batch = 16 }}
[towers.protein]
backbone = "esm:esm2_t6_8M_UR50D"
weights = {esm!r}
[towers.caption]
backbone = "sentence-transformers:all-MiniLM-L6-v2"
weights = {text!r}
"""
STUDY = """
schema_version = 1
recipe = "recipe.toml"
seeds = 1
metrics = ["protein_to_caption/map", "geometry/sdd"]
[axes]
method = ["set-clip-plus", "cca"]
pairs = [6, 9]
"""


def command(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Proteins and captions of three families, tiny backbones, two seeds of one method and one of another."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETCLIP_CACHE", str(root / "cache"))
        pairs = ["left_modality,left_id,right_modality,right_id"]
        for split, count in (("train", 36), ("test", 24)):
            fasta, captions = [], []
            for number in range(count):
                name = list(FAMILIES)[number % 3]
                body = FAMILIES[name] * 3 + "ACDEFGHIKLMN"[number % 12 :] + FAMILIES[name] + "QRSTV"[number // 12]
                fasta.append(f">{split}{number:03d} some {name}\n{body}{'W' if split == 'test' else ''}")
                text = {"id": f"{split}-c{number}", "text": f"a {name}, {split} entry {number}", "label": name}
                captions.append(json.dumps(text))
                if split == "train" and number < 9:
                    pairs.append(f"protein,{split}{number:03d},caption,{split}-c{number}")
            (root / f"{split}.fasta").write_text("\n".join(fasta) + "\n")
            (root / f"{split}.jsonl").write_text("\n".join(captions) + "\n")
        labels = [
            f"{split}{number:03d},{list(FAMILIES)[number % 3]}"
            for split, count in (("train", 36), ("test", 24))
            for number in range(count)
        ]
        (root / "labels.csv").write_text("\n".join(["id,label", *labels]) + "\n")
        (root / "pairs.csv").write_text("\n".join(pairs) + "\n")
        data = root / "data"
        for split in ("train", "test"):
            command("ingest", root / f"{split}.fasta", "--modality", "protein", "--labels", root / "labels.csv",
                    "--split", split, "--out", data)  # fmt: skip
            command("ingest", root / f"{split}.jsonl", "--modality", "caption", "--split", split, "--out", data)
        command("ingest", root / "train.jsonl", "--modality", "caption", "--split", "train",
                "--pairs", root / "pairs.csv", "--out", data)  # fmt: skip
        text = RECIPE.format(esm=str(esm2_checkpoint(root / "esm")), text=str(sentence_folder(root / "text")))
        (root / "recipe.toml").write_text(text)
        for method, seed in (("set-clip-plus", 0), ("set-clip-plus", 1), ("clip", 0)):
            command("align", root / "recipe.toml", "--data", data, "--out", root / f"{method}-{seed}",
                    "--set", f"method={method}", "--set", f"seed={seed}")  # fmt: skip
        (root / "study.toml").write_text(STUDY)
        yield root


def test_seeds_are_averaged_baselines_fitted_and_training_seen_from_before(world):
    data = open_dataset(world / "data")
    runs = [world / "set-clip-plus-0", world / "set-clip-plus-1", world / "clip-0"]
    found = evaluate(runs, data, world / "report").content
    names = {method["name"]: method for method in found["methods"]}
    assert list(names) == ["set-clip-plus", "clip", "asif", "cca", "procrustes"]
    assert [len(method["runs"]) for method in found["methods"]] == [2, 1, 2, 2, 2]
    assert [method["baseline"] for method in found["methods"]] == [False, False, True, True, True]
    values = {target["name"]: target["metrics"]["protein_to_caption/map"]["value"] for target in found["targets"]}
    plus = names["set-clip-plus"]["metrics"]["protein_to_caption/map"]
    assert plus["mean"] == pytest.approx((values["set-clip-plus-0"] + values["set-clip-plus-1"]) / 2)
    assert plus["sd"] == pytest.approx(abs(values["set-clip-plus-0"] - values["set-clip-plus-1"]) / 2**0.5)
    before = names["set-clip-plus"]["before"]
    assert before["geometry/modality_gap"] > names["set-clip-plus"]["metrics"]["geometry/modality_gap"]["mean"]
    page = (world / "report" / "report.html").read_text()
    assert "before and after training" in page
    assert "residues" in page  # a protein is shown by its name, length and first residues

    made = {path: path.stat().st_mtime_ns for path in (world / "report" / "baselines").rglob("model.safetensors")}
    assert len(made) == 6
    evaluate(runs, data, world / "report")
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_baselines_see_as_many_axes_as_the_run_also_if_its_method_brings_their_number(world):
    command("align", world / "recipe.toml", "--data", world / "data", "--out", world / "transport-0",
            "--set", "method=transport", "--set", "projection.pca=384")  # fmt: skip
    evaluate(
        [world / "transport-0"], open_dataset(world / "data"), world / "beside", EvaluateOptions(baselines=("cca",))
    )
    (run,) = (world / "beside" / "baselines").rglob("config.json")
    assert load_recipe(run.parent / "recipe.toml").projection.pca == 384


def test_a_baseline_that_cannot_be_aligned_does_not_stop_the_others(world, monkeypatch, capsys):
    def refuse_cca(recipe, *others, **more):
        if recipe.method == "cca":
            raise SetClipError("too few pairs", fix="give more")
        return align(recipe, *others, **more)

    monkeypatch.setattr(baselines, "align_own", refuse_cca)
    options = EvaluateOptions(baselines=("cca", "asif"))
    found = evaluate(world / "clip-0", world / "data", world / "refused", options)
    assert [method["name"] for method in found.content["methods"]] == ["clip", "asif"]
    assert found.content["baselines_left_out"] == "cca could not be aligned: too few pairs"
    assert "cca could not be aligned" in capsys.readouterr().err


def test_a_run_and_its_embeddings_score_alike(world):
    data = open_dataset(world / "data")
    command("embed", world / "set-clip-plus-0", world / "data", "--split", "test", "--out", world / "embeddings")
    by_run = evaluate([world / "set-clip-plus-0"], data, world / "by-run", EvaluateOptions(baselines=())).content
    by_file = evaluate([world / "embeddings"], data, world / "by-file").content
    run, file = (one["methods"][0]["metrics"] for one in (by_run, by_file))
    assert {key: metric["mean"] for key, metric in file.items()} == pytest.approx(
        {key: metric["mean"] for key, metric in run.items()}, abs=2e-3
    )
    assert "holds embeddings only" in by_file["baselines_left_out"]


def test_prompts_of_a_task_set_stand_for_the_classes(world):
    (world / "families.toml").write_text(
        'schema_version = 1\nmodality = "protein"\nsource = "made for this test"\ntemplates = ["a {}, test entry 1"]\n'
        'classes = { Kinase = "kinase", TRANSPORTER = "transporter", protease = "protease", lectin = "lectin" }\n'
    )
    words = ["evaluate", world / "set-clip-plus-0", world / "data", "--out", world / "tasks", "--baselines", "none"]
    command(*words, "--task-set", world / "families.toml")
    found = json.loads((world / "tasks" / "report.json").read_text())
    assert found["classes"] == ["kinase", "protease", "transporter"]
    assert found["zero_shot_by"] == "prompts"
    assert found["excluded"] == {"classes of the task set without a row": 1}
    assert found["methods"][0]["metrics"]["zero_shot/top1"]["chance"] == pytest.approx(1 / 3)


def test_runs_of_one_method_and_two_recipes_are_told_apart(world):
    command("align", world / "recipe.toml", "--data", world / "data", "--out", world / "few", "--set", "pairs=6")
    data = open_dataset(world / "data")
    found = evaluate(
        [world / "set-clip-plus-0", world / "few"], data, world / "two", EvaluateOptions(baselines=())
    ).content
    assert [method["name"] for method in found["methods"]] == ["set-clip-plus (pairs=all)", "set-clip-plus (pairs=6)"]


def test_a_study_trains_its_cells_and_a_second_run_trains_none(world):
    data = open_dataset(world / "data")
    first = run_study(world / "study.toml", data, world / "study")
    assert (first.trained, first.reused) == (4, 0)
    again = run_study(world / "study.toml", data, world / "study")
    assert (again.trained, again.reused) == (0, 4)
    assert first.content == again.content
    assert "before" in first.content["columns"][0]["metrics"]["geometry/sdd"]


def test_two_processes_find_what_one_finds(world):
    data = open_dataset(world / "data")
    alone = run_study(world / "study.toml", data, world / "study")
    both = run_study(world / "study.toml", data, world / "study-2", jobs=2)
    assert both.trained == 4
    assert both.content == alone.content


def test_a_study_that_is_stopped_ends_at_once_and_goes_on_later(world):
    words = [sys.executable, "-m", "setclip_cli", "study", world / "study.toml", "--data", world / "data",
             "--out", world / "stopped", "--jobs", "2"]  # fmt: skip
    started = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    scores = world / "stopped" / "scores"
    deadline = time.monotonic() + 240
    while not list(scores.glob("*.json")):  # the first cell is done, workers are starting
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.2)
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=60) == 128 + signal.SIGTERM
    left = run_study(world / "study.toml", open_dataset(world / "data"), world / "stopped")
    assert left.reused >= 1
    assert left.trained + left.reused == 4
