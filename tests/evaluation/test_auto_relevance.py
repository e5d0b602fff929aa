"""What counts as a right answer if nobody says it: data of many shapes, and RUNs for partners and for kinds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_world import invoke, run_ok

from evaluation import worlds
from setclip_cli.dataset.dataset import Dataset
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.auto_relevance import choose_relevance, relevance_of_models
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.evaluation_set import read_evaluation_set
from setclip_cli.evaluation.model_folders import ModelFolder
from setclip_cli.evaluation.options import EvaluateOptions
from tests import tiny

IMAGES = [f"{number:03}.jpg" for number in range(8)]
CAPTIONS = [f"c{number:03}" for number in range(8)]
PAIR = ("000.jpg", "c000")
NO_COMMON_LABEL = "image and caption rows have no label in common, for example 'desert' and 'elsewhere'"
NO_IMAGE = "no caption has a group that is the id of one image of the split, for example 'gone.jpg'"


def dataset(
    root: Path,
    *,
    image_labels: str = "as drawn",
    caption_labels: str = "as drawn",
    groups: str = "images",
    pairs: bool = False,
) -> Dataset:
    """Images and captions with labels and groups on both sides, or with less; in split test."""
    data = worlds.dataset(root, images=8, captions=8, pairs=[PAIR] if pairs else None)
    for ids, labels in ((IMAGES, image_labels), (CAPTIONS, caption_labels)):
        if labels != "as drawn":
            data = worlds.relabel(data, dict.fromkeys(ids, labels or None))
    if groups != "images":
        data = worlds.relabel(data, dict.fromkeys(CAPTIONS, groups or None), column="group")
    return data


@pytest.mark.parametrize(
    ("shape", "rule", "reason"),
    [
        ({}, "label", "both sides have labels in common"),
        ({"pairs": True, "groups": ""}, "label", "both sides have labels in common"),
        ({"caption_labels": ""}, "group", "captions have groups, and caption rows have no labels"),
        ({"image_labels": ""}, "group", "captions have groups, and image rows have no labels"),
        ({"image_labels": "", "caption_labels": "", "pairs": True}, "group",
         "captions have groups, and image and caption rows have no labels"),
        ({"caption_labels": "elsewhere"}, "group", f"captions have groups, and {NO_COMMON_LABEL}"),
        ({"caption_labels": "", "groups": "", "pairs": True}, "pairs",
         "there are known pairs, caption rows have no labels, and captions have no groups"),
        ({"caption_labels": "elsewhere", "groups": "gone.jpg", "pairs": True}, "pairs",
         f"there are known pairs, {NO_COMMON_LABEL}, and {NO_IMAGE}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", [None, "set-clip-plus", "clip"])
def test_labels_come_first_then_groups_then_pairs(tmp_path, method, shape, rule, reason):
    data = dataset(tmp_path, **shape)
    assert choose_relevance(data, "image", "caption", split="test", method=method) == (rule, reason)
    rows = read_evaluation_set(data, "image", "caption", split="test", rule=rule)
    assert all(len(answers.queries) for answers in rows.relevance())


@pytest.mark.parametrize(
    ("shape", "rule", "reason"),
    [
        ({}, "group", "and captions have groups"),
        ({"groups": ""}, "label", "both sides have labels in common, and captions have no groups"),
        ({"groups": "gone.jpg", "pairs": True}, "label", f"both sides have labels in common, and {NO_IMAGE}"),
        ({"groups": "", "image_labels": "", "pairs": True}, "pairs",
         "there are known pairs, captions have no groups, and image rows have no labels"),
    ],
)  # fmt: skip
def test_a_run_for_partners_is_asked_for_groups_first(tmp_path, shape, rule, reason):
    found = choose_relevance(dataset(tmp_path, **shape), "image", "caption", split="test", method="transport")
    assert found == (rule, f"method transport is for partners, {reason}")


@pytest.mark.parametrize("method", ["transport", "clip"])
def test_data_without_any_right_answer_say_what_each_rule_lacks(tmp_path, method):
    data = dataset(tmp_path, caption_labels="", groups="gone.jpg")
    with pytest.raises(SetClipError) as caught:
        choose_relevance(data, "image", "caption", split="test", method=method)
    told = str(caught.value)
    assert "split 'test' does not say which image and caption rows belong together" in told
    assert "label: caption rows have no labels" in told
    assert f"group: {NO_IMAGE}" in told
    assert "pairs: there are no known image-caption pairs" in told


def test_pairs_and_groups_of_rows_that_are_not_scored_do_not_count(tmp_path):
    data = dataset(tmp_path, caption_labels="", pairs=True)
    gone = {"caption": {"c000"}}
    assert choose_relevance(data, "image", "caption", split="test", without_embedding=gone)[0] == "group"
    data = worlds.relabel(data, dict.fromkeys(CAPTIONS[1:]), column="group")
    assert choose_relevance(data, "image", "caption", split="test")[0] == "group"
    with pytest.raises(SetClipError, match="captions have no groups; pairs: there are no known image-caption pairs"):
        choose_relevance(data, "image", "caption", split="test", without_embedding=gone)


def test_groups_in_other_spellings_count_and_groups_of_another_split_do_not(tmp_path):
    for split, names in (("train", "abcd"), ("test", "efgh")):
        (tmp_path / split / "x").mkdir(parents=True)
        for number, name in enumerate(names):
            (tmp_path / split / "x" / f"{name}.jpg").write_bytes(tiny.jpeg(number + 9 * (split == "test")))
        run_ok("ingest", tmp_path / split, "--modality", "image", "--split", split, "--out", tmp_path / "data")
    for split, groups in (("train", "efgh"), ("test", "ef")):
        lines = [json.dumps({"text": f"{split} {group}", "group": group}) for group in groups]
        source = tmp_path / f"{split}.jsonl"
        source.write_text("\n".join(lines))
        run_ok("ingest", source, "--modality", "caption", "--split", split, "--out", tmp_path / "data")
    data = worlds.open_dataset(tmp_path / "data")
    assert choose_relevance(data, "image", "caption", split="test")[0] == "group"
    with pytest.raises(SetClipError, match="group that is the id of one image of the split, for example 'e'"):
        choose_relevance(data, "image", "caption", split="train")


def test_proteins_without_labels_are_scored_by_group_or_told_that_only_captions_have_groups(tmp_path):
    (tmp_path / "p.fasta").write_text(">P1 x\nMKVLA\n>P2 x\nMKWLC\n")
    (tmp_path / "c.jsonl").write_text('{"text": "one", "group": "P1"}\n{"text": "two", "group": "P2"}\n')
    run_ok("ingest", tmp_path / "p.fasta", "--modality", "protein", "--split", "test", "--out", tmp_path / "data")
    run_ok("ingest", tmp_path / "c.jsonl", "--modality", "caption", "--split", "test", "--out", tmp_path / "data")
    data = worlds.open_dataset(tmp_path / "data")
    assert choose_relevance(data, "protein", "caption", split="test")[0] == "group"
    tiny.write_dataset(tmp_path / "two", {"image": [tiny.jpeg(0)], "protein": ["MKV"]}, split="test")
    two = worlds.relabel(worlds.open_dataset(tmp_path / "two"), {"image-0": None})
    with pytest.raises(SetClipError, match="group: there are no captions, which could have groups"):
        choose_relevance(two, "protein", "image", split="test")


@pytest.mark.parametrize(
    ("models", "rule"),
    [
        ("run transport", "group"),
        ("run clip", "label"),
        ("run transport, run clip", "group"),
        ("run clip, run transport", "label"),
        ("embeddings clip, run transport", "group"),
        ("embeddings transport, run clip", "label"),
        ("embeddings transport", "group"),
        ("embeddings clip, embeddings transport", "label"),
    ],
)
def test_the_first_run_or_else_the_first_embeddings_decide_unless_the_user_does(tmp_path, models, rule):
    data = dataset(tmp_path)
    given = []
    for one in models.split(", "):
        kind, method = one.split()
        given.append(ModelFolder(one, tmp_path / one, kind, method, 0, {}, ("image", "caption")))  # type: ignore[arg-type]
    assert relevance_of_models(EvaluateOptions(), given, data, {})[0] == rule
    assert relevance_of_models(EvaluateOptions(relevance="pairs"), given, data, {}) == ("pairs", "")


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        ({}, "label"),
        ({"caption_labels": ""}, "group"),
        ({"caption_labels": "", "groups": "", "pairs": True}, "pairs"),
        ({"image_labels": "", "groups": "gone.jpg", "pairs": True}, "pairs"),
    ],
)
def test_embeddings_alone_are_asked_for_what_the_data_can_answer_and_one_line_says_so(tmp_path, shape, rule, capsys):
    data = dataset(tmp_path / "data", **shape)
    model = worlds.embeddings(tmp_path / "model", data)
    found = evaluate(model, data, tmp_path / "report", EvaluateOptions(baselines=())).content
    assert found["relevance"] == rule
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("relevance:")]
    assert told == [f"relevance: {rule} ({found['relevance_reason']})"]


def test_embeddings_alone_of_data_without_any_answer_say_what_each_rule_lacks(tmp_path):
    data = dataset(tmp_path / "data", caption_labels="", groups="")
    model = worlds.embeddings(tmp_path / "model", data)
    with pytest.raises(SetClipError, match="label: caption rows have no labels; group: captions have no groups; pairs"):
        evaluate(model, data, tmp_path / "report", EvaluateOptions(baselines=()))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, two captions each, and two RUNs; in `groups` only images have labels."""
    root = tmp_path_factory.mktemp("auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETCLIP_CACHE", str(root / "cache"))
        lines = []
        for number in range(24):
            name, split = ("field", "river")[number % 2], "test" if number >= 16 else "train"
            path = root / "images" / split / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiny.jpeg(number, size=(16, 16)))
            common = {"group": f"{name}/{number}.jpg", "split": split, "label": name}
            lines += [{"text": f"a {name}, view {number}.{view}", **common} for view in range(2)]
        for data, keys in (("groups", {"text", "group", "split"}), ("both", {"text", "group", "split", "label"})):
            kept = [json.dumps({key: value for key, value in line.items() if key in keys}) for line in lines]
            (root / f"{data}.jsonl").write_text("\n".join(kept))
            for split in ("train", "test"):
                run_ok("ingest", root / "images" / split, "--modality", "image", "--split", split, "--out", root / data)
            captions = ("ingest", root / f"{data}.jsonl", "--modality", "caption", "--pairs-from-group")
            run_ok(*captions, "--out", root / data)
        clip = tiny.clip_folder(root)
        towers = "".join(
            f"[towers.{modality}]\nbackbone = 'sentence-transformers:clip-ViT-B-32'\nweights = {str(clip)!r}\n"
            for modality in ("image", "caption")
        )
        (root / "recipe.toml").write_text(
            "schema_version = 2\nprojection = { dim = 8, pca = 8 }\ntrain = { steps = 1, batch = 8 }\n" + towers
        )
        for name, setting in (("partners", "goal='partner'"), ("clip", "method='clip'")):
            words = ("--data", root / "groups", "--out", root / name, "--set", setting)
            run_ok("align", root / "recipe.toml", *words)
        yield root


def scored(world: Path, data: str, *models: str, relevance: str = "auto") -> tuple[str, str]:
    options = EvaluateOptions(baselines=(), relevance=relevance)  # type: ignore[arg-type]
    report = evaluate([world / name for name in models], world / data, world / "report", options)
    assert f"--relevance {report.content['relevance']}" in report.content["command"]
    return report.content["relevance"], report.content["relevance_reason"]


@pytest.mark.slow
def test_the_goal_of_the_run_and_the_data_decide_and_the_first_run_of_several(world):
    told = "method transport is for partners, and captions have groups"
    assert scored(world, "both", "partners") == ("group", told)
    assert scored(world, "both", "clip") == ("label", "both sides have labels in common")
    assert scored(world, "groups", "clip") == ("group", "captions have groups, and caption rows have no labels")
    assert scored(world, "both", "partners", "clip") == ("group", told)
    assert scored(world, "both", "clip", "partners")[0] == "label"
    assert scored(world, "both", "partners", relevance="label") == ("label", "")
    run_ok("embed", world / "clip", world / "both", "--split", "test", "--out", world / "embeddings")
    assert scored(world, "both", "embeddings", "partners") == ("group", told)


@pytest.mark.slow
def test_the_installed_command_scores_by_group_and_says_why(world, tmp_path):
    words = ["evaluate", world / "partners", world / "groups", "--out", tmp_path / "report", "--baselines", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "setclip_cli", *map(str, words), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    line = "relevance: group (method transport is for partners, and captions have groups)"
    assert line in done.stderr.splitlines()
    content = json.loads(done.stdout)
    assert content["relevance"] == "group"
    assert content["queries"] == {"image_to_caption": 8, "caption_to_image": 16}
    assert content["command"].endswith("--relevance group --baselines none")
    assert f"- {line}" in (tmp_path / "report" / "report.md").read_text()
    assert "<b>group</b> (method transport is for partners" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.slow
def test_a_study_takes_one_rule_for_all_its_runs_by_the_data_alone(world, tmp_path):
    (tmp_path / "study.toml").write_text(
        f'schema_version = 1\nrecipe = "{world / "recipe.toml"}"\nseeds = 1\nmetrics = ["image_to_caption/map"]\n'
        '[axes]\nmethod = ["transport", "cca"]\n'
    )
    for data, rule in (("groups", "group"), ("both", "label")):
        words = ("study", tmp_path / "study.toml", "--data", world / data, "--out", tmp_path / data, "--json")
        code, stdout, stderr = invoke(*words)
        assert code == 0, stderr
        assert json.loads(stdout)["study"]["relevance"] == rule
        assert f"relevance: {rule} (" in stderr
        (scores, _) = (tmp_path / data / "scores").iterdir()
        assert json.loads(scores.read_text())["relevance"] == rule
