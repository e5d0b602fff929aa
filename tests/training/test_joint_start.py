"""Towers that are aligned already: halves of a CLIP, or the towers of a RUN, are the start that training moves from."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sentence_transformers import SentenceTransformer
from small_world import invoke, make_world, run_ok
from torch import Tensor

from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.similarity import unit_rows
from setclip_cli.methods import distil
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.run.model import load_model
from setclip_cli.training.build import build_training
from setclip_cli.training.fit import Fitted, fit
from setclip_cli.training.tower import Pool
from tests import tiny

CLIP = "sentence-transformers:clip-ViT-B-32"
NO_PAIRS = torch.zeros(0, 2, dtype=torch.int64)
TOWERS = {modality: {"backbone": CLIP, "joint": True} for modality in ("image", "caption")}
ROWS = 24
IMAGES = [tiny.jpeg(seed) for seed in range(ROWS)]
TEXTS = [f"a {('red', 'blue', 'green')[number % 3]} field, number {number}" for number in range(ROWS)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP, a DATASET of images and captions without pairs, and a recipe for both towers."""
    folder = tmp_path_factory.mktemp("joint")
    clip = tiny.clip_folder(folder)
    tiny.write_dataset(folder / "data", {"image": IMAGES, "caption": TEXTS}, rows_per_shard=ROWS)
    towers = "".join(
        f"[towers.{modality}]\nbackbone = {CLIP!r}\nweights = {str(clip)!r}\njoint = true\n"
        for modality in ("image", "caption")
    )
    (folder / "recipe.toml").write_text(
        "schema_version = 2\nmethod = 'set-clip-plus'\npairs = 0\n"
        f"projection = {{ dim = 12 }}\ntrain = {{ steps = 6, batch = 16 }}\n{towers}"
    )
    return folder


def align(world: Path, out: Path, *settings: str, dry: bool = False) -> tuple[int, str, str]:
    overrides = [word for setting in settings for word in ("--set", setting)] + ["--dry-run"] * dry
    return invoke("align", world / "recipe.toml", "--data", world / "data", "--out", out, *overrides)


@pytest.fixture(scope="module")
def run(world: Path) -> Path:
    code, _, stderr = align(world, world / "run")
    assert code == 0, stderr
    return world / "run"


def zero_shot(world: Path) -> tuple[np.ndarray, np.ndarray]:
    model = SentenceTransformer(str(world / "tiny-clip-0"), device="cpu", local_files_only=True)
    pictures = [Image.open(io.BytesIO(content)).convert("RGB") for content in IMAGES]
    left, right = (model.encode(items, normalize_embeddings=True) for items in (pictures, TEXTS))
    return left, right


@pytest.mark.parametrize("settings", [(), ("ensemble=2",), ("towers.image.trainable=last-1",), ("projection.pca=4",)])
def test_before_the_first_step_the_cosines_are_those_of_the_joint_model(
    world: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    code, _, stderr = align(world, tmp_path / "run", "train.steps=1", *settings)
    assert code == 0, stderr
    model = load_model(tmp_path / "run")
    left, right = (
        model.initial[modality](model.load_backbone(modality, initial=True).encode(items).features).detach().numpy()
        for modality, items in (("image", IMAGES), ("caption", TEXTS))
    )
    own_left, own_right = zero_shot(world)
    np.testing.assert_allclose(left @ right.T, own_left @ own_right.T, atol=1e-6)
    np.testing.assert_allclose(left @ left.T, own_left @ own_left.T, atol=1e-6)


def test_training_moves_away_from_the_start_and_says_how_far(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 6  # it trains, though there is no pair
    assert records[0]["start_cosine"] == pytest.approx(1, abs=1e-6)
    assert 0.5 < records[-1]["start_cosine"] < 0.99999
    card = (run / "README.md").read_text()
    assert "start_cosine/image" in card
    assert "start_cosine/caption" in card
    assert "Training starts from the embeddings of the joint model" in card
    assert "Radford et al. 2021" in card
    assert {type(encoder).__name__ for encoder in load_model(run).encoders.values()} == {"Composed"}  # no extra ones


def test_a_run_that_is_opened_again_gives_the_same_embeddings(world: Path, run: Path, tmp_path: Path) -> None:
    run_ok("embed", run, world / "data", "--out", tmp_path / "embeddings")
    model, opened = load_model(run), open_embeddings(tmp_path / "embeddings")
    for modality, given in (("image", {"images": IMAGES}), ("caption", {"captions": TEXTS})):
        table = opened.load(modality, "train")  # type: ignore[arg-type]
        np.testing.assert_allclose(table.embeddings, model.embed(**given), atol=1e-6)  # type: ignore[arg-type]
    found = json.loads(run_ok("search", tmp_path / "embeddings", TEXTS[3], "--in", "image", "--json"))
    query = model.embed(captions=[TEXTS[3]]) @ model.embed(images=IMAGES).T
    assert found["hits"][0]["id"] == f"image-{int(query.argmax())}"


def test_a_run_of_strangers_is_a_start_on_other_data_without_pairs(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    assert invoke("align", world / "recipe.toml", "--data", world / "data", "--out", world / "first")[0] == 0
    other = world / "other"
    proteins, captions = tiny.proteins(20, seed=3), [f"entry {number} of another set" for number in range(20)]
    tiny.write_dataset(other, {"protein": proteins, "caption": captions})
    settings = ["pairs=0", f"init_from={world / 'first'}", "train.steps=4"]
    joint = ["towers.protein.joint=true", "towers.caption.joint=true"]
    for name, more in (("joint", joint), ("same heads", [])):
        overrides = [word for setting in (*settings, *more) for word in ("--set", setting)]
        code, _, stderr = invoke("align", world / "recipe.toml", "--data", other, "--out", world / name, *overrides)
        assert code == 0, stderr
        assert len((world / name / "metrics.jsonl").read_text().splitlines()) == 4  # trained, not matched as strangers
    first, following = load_model(world / "first"), load_model(world / "joint")
    for modality, items in (("protein", proteins), ("caption", captions)):
        features = first.load_backbone(modality).encode(items).features  # type: ignore[arg-type]
        before = first.encoders[modality](features)  # type: ignore[index]
        torch.testing.assert_close(following.initial[modality](features), before, atol=1e-6, rtol=0)  # type: ignore[index]
        assert not torch.allclose(following.encoders[modality](features), before, atol=1e-4)  # type: ignore[index]


def test_a_joint_run_is_a_start_in_its_turn(world: Path, run: Path, tmp_path: Path) -> None:
    code, _, stderr = align(world, tmp_path / "next", f"init_from={run}", "train.steps=1")
    assert code == 0, stderr
    first, following = load_model(run), load_model(tmp_path / "next")
    features = first.load_backbone("image").encode(IMAGES).features
    torch.testing.assert_close(following.initial["image"](features), first.encoders["image"](features))


def test_the_report_compares_a_joint_run_with_its_start_and_with_the_baselines(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    lines = []
    for number in range(10):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(IMAGES[number])
        lines.append(json.dumps({"id": f"c{number}", "text": TEXTS[number], "group": f"{number}.jpg"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    data = tmp_path / "data"
    run_ok("ingest", tmp_path / "images", "--modality", "image", "--out", data)
    run_ok("ingest", tmp_path / "captions.jsonl", "--modality", "caption", "--pairs-from-group", "--out", data)
    settings = ("--set", "pairs=all", "--set", "train.steps=2")
    run_ok("align", world / "recipe.toml", "--data", data, "--out", tmp_path / "run", *settings)
    scored = ("--split", "train", "--relevance", "group", "--baselines", "clip,cca")
    run_ok("evaluate", tmp_path / "run", data, "--out", tmp_path / "report", *scored)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["baselines_left_out"] == ""
    assert [method["method"] for method in report["methods"]] == ["set-clip-plus", "clip", "cca"]


def test_pools_too_small_to_be_matched_as_strangers_are_adapted(world: Path, run: Path, tmp_path: Path) -> None:
    tiny.write_dataset(tmp_path / "data", {"image": IMAGES[:5], "caption": TEXTS[:6]})
    for settings in ([], ["--set", f"init_from={run}"]):
        steps = ("--set", "train.steps=1", *settings, "--out", tmp_path / f"run-{len(settings)}")
        code, _, stderr = invoke("align", world / "recipe.toml", "--data", tmp_path / "data", *steps)
        assert code == 0, stderr


def test_a_dry_run_says_where_training_starts(world: Path, run: Path, tmp_path: Path) -> None:
    for settings, words in (([], "the joint model"), ([f"init_from={run}"], str(run))):
        code, stdout, stderr = align(world, tmp_path / "next", *settings, dry=True)
        assert code == 0, stderr
        assert f"starts from the embeddings of {words}" in stdout


def test_raw_features_of_images_and_captions_come_from_one_model(world: Path, tmp_path: Path) -> None:
    for modality, index in (("image", 0), ("caption", 1)):
        run_ok(
            *("embed", "--backbone", CLIP, "--weights", world / "tiny-clip-0", "--modality", modality),
            *(world / "data", "--out", tmp_path / modality),
        )
        rows = open_embeddings(tmp_path / modality).load(modality, "train").embeddings  # type: ignore[arg-type]
        np.testing.assert_allclose(unit_rows(rows), zero_shot(world)[index], atol=1e-5)
    code, _, stderr = invoke(
        "embed", "--backbone", CLIP, "--modality", "protein", world / "data", "--out", tmp_path / "proteins"
    )
    assert (code, "sentence-transformers backbones read texts or images" in stderr) == (2, True)


def shifted(seed: int, rows: int = 900) -> tuple[Tensor, Tensor]:
    """Two sides of the same items in one space, where the right one is shifted and a little warped: row i is a pair."""
    draw = torch.Generator().manual_seed(seed)
    kinds = torch.randn(10, 12, generator=draw)
    items = kinds[torch.arange(rows) % 10] + 0.6 * torch.randn(rows, 12, generator=draw)
    left, right = (items + 0.15 * torch.randn(rows, 12, generator=draw) for _ in range(2))
    warp = torch.eye(12) + 0.3 * torch.randn(12, 12, generator=draw) / 12**0.5
    return left, right @ warp + torch.randn(12, generator=draw)


def recall_at_5(encoders: tuple[torch.nn.Module, torch.nn.Module], left: Tensor, right: Tensor) -> float:
    with torch.no_grad():
        similarity = encoders[0](left) @ encoders[1](right).T
    own = similarity.diagonal()
    ahead = [(similarity > own[:, None]).sum(1), (similarity > own).sum(0)]
    return float(sum((each < 5).float().mean() for each in ahead) / 2)


def fitted(left: Tensor, right: Tensor, pairs: Tensor = NO_PAIRS, **settings: object) -> Fitted:
    base = {"towers": TOWERS, "method": "set-clip-plus", "pairs": len(pairs), "projection": {"dim": 64}}
    recipe = Recipe.model_validate(base | settings)
    return fit(recipe, left, right, pairs)


def test_without_pairs_a_shifted_start_is_adapted_to_rows_that_training_did_not_see() -> None:
    left, right = shifted(0)
    found = fitted(left[:300], right[300:600], train={"steps": 100})  # no item is on both sides
    before, after = (recall_at_5(pair, left[600:], right[600:]) for pair in (found.initial, found.encoders))
    assert after > before + 0.1, (before, after)
    assert 0.5 < found.findings["start_cosine/image"] < 0.995


def test_pairs_ensembles_and_distillation_work_from_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "STEPS", 3)
    left, right = shifted(0, 120)
    pairs = torch.arange(30).repeat(2, 1).T.contiguous()
    found = fitted(left, right, pairs, train={"steps": 20}, ensemble=2, ensemble_distil=True)
    assert found.encoders[0].dim == 12
    assert found.findings.keys() == {"distil/correlation", "start_cosine/image", "start_cosine/caption"}
    extra = fitted(left, right, pairs, train={"steps": 5}, extra_encoders={"linear": 0.3, "shifted": 0.5})
    assert type(extra.encoders[0]).__name__ == "MeanShift"


def test_the_noise_of_a_second_view_leaves_the_start_alone() -> None:
    left, right = shifted(0, 60)
    recipe = Recipe.model_validate({"towers": TOWERS, "pairs": 0, "method": "set-clip"})
    tower = build_training(recipe, Pool(left), Pool(right), NO_PAIRS).towers[0]
    rows = torch.arange(60)
    view = tower.prepare(rows, slice(0, 60), view_seed=1)
    torch.testing.assert_close(tower.embed(0, view), F.normalize(left, dim=1), atol=1e-6, rtol=0)
    assert not torch.allclose(tower.compared(view), tower.features, atol=0.1)


def test_features_of_two_widths_are_no_joint_start() -> None:
    left, right = shifted(0, 60)
    with pytest.raises(SetClipError, match="left features have 12 values and the right 11"):
        fitted(left, right[:, :11])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["towers.caption.joint=false"], ["towers.caption.joint = false: the other tower is joint"]),
        (["method=cca", "pairs=all"], ["method 'cca' does not start from"]),
        (["towers.image.layer=1"], ["towers.image.layer = 1: only the last layer"]),
        (["towers.image.pooling=mean"], ["towers.image.pooling = 'mean': only its own pooling"]),
        (["towers.image.backbone=timm:resnet10t.c3_in1k"], ["resnet10t.c3_in1k is not known to share a space"]),
        (
            ["towers.image.backbone=timm:vit_base_patch16_clip_quickgelu_224.openai"],
            ["(OpenAI CLIP ViT-B/16) and sentence-transformers:clip-ViT-B-32 (OpenAI CLIP ViT-B/32) are not halves"],
        ),
    ],
)
def test_settings_that_do_not_go_with_joint_towers_are_refused(
    world: Path, tmp_path: Path, settings: list[str], words: list[str]
) -> None:
    code, _, stderr = align(world, tmp_path / "run", *settings)
    assert code == 2
    assert all(word in stderr for word in words), stderr
    assert "1 problem in the recipe" in stderr


def test_models_that_share_no_space_are_refused_before_anything_is_written(world: Path, tmp_path: Path) -> None:
    other = tiny.clip_folder(tmp_path, width=12, seed=1)
    strangers = tiny.sentence_folder(tmp_path / "text")
    for weights, name, words in (
        (other, CLIP, "are not known to share a space"),
        (strangers, "sentence-transformers:mine", "reads texts alone"),
    ):
        code, _, stderr = align(
            world, tmp_path / "run", f"towers.caption.weights={weights}", f"towers.caption.backbone={name}"
        )
        assert (code, words in stderr) == (2, True), stderr
        assert not (tmp_path / "run" / "recipe.toml").exists()


def test_joint_towers_have_defaults_of_their_own() -> None:
    trained = {"towers": TOWERS, "method": "set-clip-plus"}
    recipe = Recipe.model_validate(trained | {"pairs": 0})
    assert not any(recipe.extra_encoders.model_dump().values())
    assert (recipe.optim.lr, recipe.objective.neighbourhood.weight, recipe.objective.sdd.weight) == (3e-4, 1.0, 0.3)
    assert Recipe.model_validate(trained | {"pairs": 20}).optim.lr == 1e-3
    own = Recipe.model_validate(trained | {"optim": {"lr": 0.01}, "objective": {"neighbourhood": {"weight": 0.2}}})
    assert (own.optim.lr, own.objective.neighbourhood.weight) == (0.01, 0.2)
    transport = [
        Recipe.model_validate({"towers": TOWERS, "pairs": count, "method": "transport"}).projection.pca
        for count in (0, 20)
    ]
    assert transport == [128, 384]
    assert load_recipe("remote_sensing_joint").joint
