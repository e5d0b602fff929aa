"""Claims about counting known pairs by item: proteins with three captions each, from the recipe to the model card."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest
import torch
from small_world import FAMILIES, invoke, run_ok
from tiny import esm2_checkpoint, sentence_folder

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.evaluation import baselines
from setclip_cli.features import layer_choice
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.run.config import load_config
from setclip_cli.training.early_stopping import _recall
from setclip_cli.training.known_pairs import known_pairs

PROTEINS, CAPTIONS = 18, 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATASET whose captions have groups, and a recipe; `--pairs-from-group` gives 54 pairs of 18 proteins."""
    folder = tmp_path_factory.mktemp("items")
    os.environ["SETCLIP_CACHE"] = str(folder / "cache")
    fasta, captions = [], []
    for number in range(PROTEINS):
        name = list(FAMILIES)[number % 3]
        fasta.append(f">P{number:02d} some {name}\n{FAMILIES[name] * 3}{'ACDEFGHIKLMNPQRSTVW'[number:]}")
        captions += [
            json.dumps({"id": f"c{number}-{m}", "text": f"{name} {number}, view {m}", "group": f"P{number:02d}"})
            for m in range(CAPTIONS)
        ]
    (folder / "proteins.fasta").write_text("\n".join(fasta) + "\n")
    (folder / "captions.jsonl").write_text("\n".join(captions) + "\n")
    data = ("--split", "train", "--out", folder / "data")
    run_ok("ingest", folder / "proteins.fasta", "--modality", "protein", *data)
    run_ok("ingest", folder / "captions.jsonl", "--modality", "caption", "--pairs-from-group", *data)
    (folder / "recipe.toml").write_text(
        f"""
        schema_version = 2
        method = "set-clip-plus"
        pairs = 4
        projection = {{ dim = 8, pca = 6 }}
        train = {{ steps = 3, batch = 8 }}
        [towers.protein]
        backbone = "esm:esm2_t6_8M_UR50D"
        weights = {str(esm2_checkpoint(folder / "esm"))!r}
        [towers.caption]
        backbone = "sentence-transformers:all-MiniLM-L6-v2"
        weights = {str(sentence_folder(folder / "text"))!r}
        """
    )
    return folder


def align(world: Path, out: Path, *settings: str) -> tuple[int, str, str]:
    overrides = [word for setting in settings for word in ("--set", setting)]
    return invoke("align", world / "recipe.toml", "--data", world / "data", "--out", out, *overrides)


def test_both_numbers_are_told_everywhere(world: Path, tmp_path: Path) -> None:
    code, told, _ = invoke(
        "align", world / "recipe.toml", "--data", world / "data", "--out", tmp_path / "run", "--dry-run"
    )
    assert code == 0
    assert "set-clip-plus on 4 items with 12 known pairs, seed 0" in told
    code, told, _ = align(world, tmp_path / "run")
    assert "set-clip-plus on 4 items with 12 pairs, 3 steps" in told
    config = load_config(tmp_path / "run")
    assert (config.pairs, config.known_items) == (12, 4)
    assert "unpaired rows and 4 items with 12 known pairs." in (tmp_path / "run" / "README.md").read_text()


def test_what_auto_takes_is_known_before_anything_is_computed_and_is_what_align_does(
    world: Path, tmp_path: Path
) -> None:
    words = (
        "align",
        world / "recipe.toml",
        "--data",
        world / "data",
        "--out",
        tmp_path / "run",
        "--set",
        "method=auto",
    )
    code, told, _ = invoke(*words, "--dry-run")
    assert code == 0
    reason = "auto: transport, for the goal 'partner': most known items have several partners of their own"
    assert f"  {reason}\n" in told
    assert "  fitted in closed form\n" in told
    assert "steps x" not in told
    assert json.loads(invoke(*words, "--dry-run", "--json")[1])["choice"]["method"] == "transport"
    assert not (tmp_path / "run").exists()
    code, told, stderr = invoke(*words)
    assert code == 0, stderr
    assert reason in stderr
    assert "transport on 4 items with 12 pairs, 0 steps" in told
    assert json.loads((tmp_path / "run" / "selection.json").read_text())["goal"] == "partner"
    code, told, _ = invoke(*words[:5], tmp_path / "other", *words[6:], "--set", "optim.lr=0.01", "--dry-run")
    assert code == 0
    assert "note: method 'transport' takes no training steps, so this has no effect: " in told
    assert "optim.lr" in told.partition("note: method")[2].splitlines()[0]
    code, _, stderr = invoke(*words, "--set", "goal=partner", "--set", "pairs=0", "--dry-run")
    assert (code, "goal = 'partner': with pairs = 0" in stderr) == (2, True)


def test_a_recipe_of_version_1_counts_rows_and_its_run_says_nothing_of_items(world: Path, tmp_path: Path) -> None:
    code, told, _ = align(world, tmp_path / "run", "schema_version=1")
    assert code == 0
    assert "on 4 pairs, 3 steps" in told
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (written["pairs"], "known_items" in written) == (4, False)
    assert tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())["pairs_unit"] == "row"


@pytest.mark.parametrize("version", [1, 2])
def test_baselines_have_the_pairs_of_the_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    assert align(world, tmp_path / "run", f"schema_version={version}")[0] == 0
    recipes: list[Recipe] = []
    monkeypatch.setattr(baselines, "align_own", lambda recipe, *_: recipes.append(recipe))
    dataset, own = open_dataset(world / "data"), load_recipe(tmp_path / "run" / "recipe.toml")
    run = type("Run", (), {"path": tmp_path / "run", "seed": 0})()
    baselines._align_like(run, "cca", dataset, tmp_path)
    assert recipes[0].method == "cca"
    assert known_pairs(dataset, recipes[0]) == known_pairs(dataset, own)
    assert len(known_pairs(dataset, own).pairs) == {1: 4, 2: 12}[version]


def test_a_method_that_needs_two_pairs_needs_two_items(world: Path, tmp_path: Path) -> None:
    code, _, told = align(world, tmp_path / "run", "pairs=1", "method=cca", "objective={}")
    assert code == 2
    assert "pairs = 1: method 'cca' learns from pairs alone and needs 2 or more" in told
    code, _, told = align(world, tmp_path / "run", "pairs=0.06", "method=cca", "objective={}")  # one protein of 18
    assert code == 2
    assert "needs 2 or more of different items; there are 3, of 1 left and 3 right items" in told


def test_too_many_items_are_an_error_with_both_numbers(world: Path, tmp_path: Path) -> None:
    code, _, told = align(world, tmp_path / "run", "pairs=20")
    assert code == 2
    assert "has 18 items with 54 protein-caption pairs in split 'train'" in told
    assert "--set pairs_unit=row" in told
    assert not (tmp_path / "run").exists()


def test_layers_are_compared_on_one_pair_of_each_item(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_choice, "PAIRS_NEEDED", 2)
    recipe = load_recipe(world / "recipe.toml", ["towers.protein.layer=best"])
    known = known_pairs(open_dataset(world / "data"), recipe)
    assert len(layer_choice.layer_pairs(recipe, known.pairs, known.items)) == 4
    # two proteins of one group are one item too
    assert len(layer_choice.layer_pairs(recipe, known.pairs, [item // 2 for item in known.items])) == 2


def test_another_caption_of_the_same_image_may_be_nearer_in_validation() -> None:
    left, right = torch.eye(3), torch.tensor([[0.6, 0.8, 0], [0.9, 0.1, 0], [0.5, 0.9, 0], [0, 0, 1.0]])
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3]])  # image 0 has two captions; caption 0 is like image 1
    assert _recall(left, right, pairs, torch.tensor([0, 0, 1, 2])) == pytest.approx((4 / 4 + 3 / 4) / 2)
    assert _recall(left, right, pairs, torch.arange(4)) == pytest.approx((3 / 4 + 3 / 4) / 2)  # by rows
    assert _recall(left, right, pairs, torch.tensor([0, 0, 0, 2])) == pytest.approx(1)  # images 0 and 1 are one item


def ingested(folder: Path, captions: list[dict[str, str]], pairs: list[str], splits: str = "train") -> Path:
    """A DATASET of four proteins, one in each of ``splits`` in turn, and of these captions and pairs."""
    for split in dict.fromkeys(splits.split()):
        own = [n for n in range(4) if splits.split()[n % len(splits.split())] == split]
        fasta = folder / f"{split}.fasta"
        fasta.write_text("".join(f">P{n}\nMKV{'ACDE'[n] * 5}LLGK{'FGHI'[n] * 3}\n" for n in own))
        run_ok("ingest", fasta, "--modality", "protein", "--split", split, "--out", folder / "data")
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, captions)))
    (folder / "pairs.csv").write_text("left_modality,left_id,right_modality,right_id\n" + "\n".join(pairs))
    words = ("ingest", folder / "captions.jsonl", "--modality", "caption", "--pairs", folder / "pairs.csv")
    run_ok(*words, "--out", folder / "data")
    return folder / "data"


def captions(**groups: str) -> list[dict[str, str]]:
    """Captions by id, each with ``group split``."""
    return [
        {"id": name, "text": f"text of {name}", "group": said.split()[0], "split": said.split()[1]}
        for name, said in groups.items()
    ]


def test_a_group_that_spells_an_id_otherwise_means_that_row(world: Path, tmp_path: Path) -> None:
    said = captions(a="p0 train", b="p0 train", c="p1 train", d="p1 train")
    pairs = ["protein,P0,caption,a", "protein,P0,caption,b", "protein,P1,caption,c", "protein,P2,caption,d"]
    found = known_pairs(open_dataset(ingested(tmp_path, said, pairs)), load_recipe(world / "recipe.toml", ["pairs=2"]))
    assert found.item_count == 2
    assert sorted(len([item for item in found.items if item == one]) for one in (0, 1)) == [2, 2]


def test_a_group_whose_pairs_are_in_two_splits_is_refused_before_anything_is_trained(
    world: Path, tmp_path: Path
) -> None:
    said = captions(a="family train", b="family test", c="other train", d="lone test")
    pairs = ["protein,P0,caption,a", "protein,P1,caption,b", "protein,P2,caption,c", "protein,P3,caption,d"]
    data = ingested(tmp_path, said, pairs, "train test")
    words = ("align", world / "recipe.toml", "--data", data, "--out", tmp_path / "run", "--set", "pairs=all")
    code, _, told = invoke(*words)
    assert code == 3
    assert "pairs_unit = 'auto': 1 item of split 'train' has pairs in another split too" in told
    assert "the captions of protein 'P0' (train) and protein 'P1' (test) have one group" in told
    assert told.count("error:") == 1
    assert not (tmp_path / "run").exists()
    code, told, _ = invoke(*words, "--set", "pairs_unit=row", "--dry-run")
    assert (code, "on 2 known pairs" in told) == (0, True)


def test_without_groups_a_left_side_with_all_its_pairs_is_an_item(world: Path, tmp_path: Path) -> None:
    said = [{"id": name, "text": f"text of {name}", "split": "train"} for name in "abcd"]
    pairs = [f"protein,P{number},caption,{name}" for number, name in ((0, "a"), (0, "b"), (1, "b"), (2, "c"))]
    data = open_dataset(ingested(tmp_path, said, pairs))
    found = known_pairs(data, load_recipe(world / "recipe.toml", ["pairs=all"]))
    assert (len(found.pairs), found.item_count) == (4, 3)  # b fits two proteins, and does not make one item of them
