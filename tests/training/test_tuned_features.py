"""Claims about extra encoders of tuned towers: they are fitted to the features that the RUN's own backbones give."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import TUNED, align, make_world, run_ok
from test_distributed import launch

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.encoders import Composed, Concatenated, Encoder
from setclip_cli.features.frozen import frozen_features
from setclip_cli.features.layer_choice import load_tower_backbone
from setclip_cli.files.atomic import sha256_file
from setclip_cli.methods.extra_encoders import with_extra_encoders, without_extra_encoders
from setclip_cli.methods.partners import fit_partner_maps
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.run.checkpoint import load_tensors
from setclip_cli.run.model import load_model
from setclip_cli.training import fit, tuned_features
from setclip_cli.training.known_pairs import known_pairs, pair_rows

FAST = ("--set", "optim.backbone_lr=0.01", "--set", "optim.ema=0.5")  # the weights and their averages differ
ON_PAIRS = ("--split", "train", "--relevance", "pairs", "--baselines", "none")
CPU = torch.device("cpu")
PARTNER = ("--set", "extra_encoders.partner=2.5")
ONE_SIDE = ("--set", "towers.protein.trainable=last-1", "--set", "train.steps=4")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("tuned"))


def by_hand(run: Path, data: Path) -> tuple[dict[str, Encoder], dict[str, torch.Tensor]]:
    """The encoders that belong to a RUN's own heads and backbones, and the features of its training rows."""
    recipe, model, dataset = load_recipe(run / "recipe.toml"), load_model(run), open_dataset(data)
    features: dict[Any, torch.Tensor] = {}
    found = []
    ids, trained, pools = [], [], []
    for modality in recipe.modalities():
        backbone = model.load_backbone(modality)
        table = dataset.table(modality, "train", ["id", backbone.column])
        features[modality] = backbone.encode(table[backbone.column].to_pylist()).features
        found.append(
            frozen_features(
                load_tower_backbone(recipe, modality, dataset.about(modality), CPU), dataset, modality, "train"
            ).features
        )
        encoder = without_extra_encoders(model.encoders[modality])
        assert isinstance(encoder, Composed)
        ids.append(table["id"].to_pylist())
        trained.append(encoder)
        pools.append(encoder.transform(features[modality]))
    pairs = pair_rows(known_pairs(dataset, recipe).pairs, *ids, split="train")
    extra = recipe.extra_encoders.model_dump()
    partner = extra.pop("partner")
    made = with_extra_encoders((trained[0], trained[1]), (pools[0], pools[1]), pairs, **extra, seed=recipe.seed)
    if partner:
        left, right = (features[modality] for modality in recipe.modalities())
        maps = fit_partner_maps(left, right, pairs, axes=384, seed=recipe.seed, chosen_on=(found[0], found[1]))
        both = (Concatenated(parts, [1.0, partner]).eval() for parts in zip(made, maps.encoders, strict=True))
        made = next(both), next(both)
    return dict(zip(recipe.modalities(), made, strict=True)), features


@pytest.mark.parametrize(
    "settings",
    [(*TUNED, *FAST), (*ONE_SIDE, *FAST), (*TUNED, *FAST, *PARTNER)],
    ids=["both", "one", "with the maps of transport"],
)
def test_embeddings_are_those_of_extra_encoders_fitted_by_hand(
    world: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    code, _, stderr = align(world, tmp_path / "run", *settings)
    assert code == 0, stderr
    model = load_model(tmp_path / "run")
    expected, features = by_hand(tmp_path / "run", world / "data")
    run_ok("embed", tmp_path / "run", world / "data", "--out", tmp_path / "embeddings")
    for modality, encoder in expected.items():
        assert model.encoders[modality].describe() == encoder.describe() != without_extra_encoders(encoder).describe()
        table = open_embeddings(tmp_path / "embeddings").load(modality, "train")
        with torch.no_grad():
            assert table.embeddings == pytest.approx(encoder(features[modality]).numpy(), abs=1e-5)
    run_ok("evaluate", tmp_path / "run", world / "data", "--out", tmp_path / "report", *ON_PAIRS)


def test_of_a_large_pool_the_rows_of_the_pairs_and_some_others_are_embedded(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned_features, "POOL_ROWS", 10)
    monkeypatch.setattr(tuned_features, "ROWS_PER_CALL", 4)
    seen: list[tuple[list[int], torch.Tensor]] = []

    def extras(*given: Any, **_: object) -> object:
        seen.append(given)
        return given[0]

    monkeypatch.setattr(fit, "with_extra_encoders", extras)
    shutil.copytree(world / "data", tmp_path / "data")
    late = [f"protein,P{35 - n:03d},caption,c{30 - n}" for n in range(4)]
    (tmp_path / "late.csv").write_text("\n".join(["left_modality,left_id,right_modality,right_id", *late]))
    run_ok("ingest", "--pairs", tmp_path / "late.csv", "--out", tmp_path / "data")
    words = ("align", world / "recipe.toml", "--data", tmp_path / "data", "--out", tmp_path / "run")
    run_ok(*words, *TUNED, *FAST)
    model, dataset = load_model(tmp_path / "run"), open_dataset(tmp_path / "data")
    trained, pools, pairs = seen[0]
    for column, modality in enumerate(("protein", "caption")):
        assert 10 <= len(pools[column]) <= 20  # 10 known pairs, of 36 rows
        backbone = model.load_backbone(modality)  # type: ignore[arg-type]
        rows = dataset.table(modality, "train", ["id", backbone.column]).to_pylist()  # type: ignore[arg-type]
        payload = {row["id"]: row[backbone.column] for row in rows}
        known = known_pairs(dataset, load_recipe(tmp_path / "run" / "recipe.toml")).pairs
        names = [pair.left_id if column == 0 else pair.right_id for pair in known]
        features = backbone.encode([payload[name] for name in names]).features
        torch.testing.assert_close(
            pools[column][pairs[:, column]], trained[column].transform(features), rtol=0, atol=1e-5
        )


def test_a_stop_between_the_last_step_and_the_fit_goes_on(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert align(world, tmp_path / "straight", *TUNED, *FAST)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(fit, "pools_after_training", stopped)
        assert align(world, tmp_path / "broken", *TUNED, *FAST)[0] == 130
    assert not (tmp_path / "broken" / "config.json").exists()
    code, _, stderr = align(world, tmp_path / "broken", *TUNED, *FAST, "--resume")
    assert code == 0, stderr
    assert "resuming from" in stderr
    for name in ("model.safetensors", "tuned-protein.safetensors", "metrics.jsonl", "config.json"):
        assert sha256_file(tmp_path / "straight" / name) == sha256_file(tmp_path / "broken" / name), name


def test_features_that_are_not_finite_stop_the_fit_and_name_the_rate(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned_features, "unusable_rows", lambda rows: {3: "holds NaN or inf"})
    code, _, stderr = align(world, tmp_path / "run", *TUNED)
    assert code == 3
    assert "towers.protein: after training, its backbone gives 1 of 36 rows a feature vector that holds NaN" in stderr
    assert "optim.backbone_lr" in stderr


def test_a_recipe_of_version_1_has_no_extra_encoders_for_tuned_towers(world: Path, tmp_path: Path) -> None:
    assert align(world, tmp_path / "run", *TUNED, "--set", "schema_version=1")[0] == 0
    model = load_model(tmp_path / "run")
    assert all(without_extra_encoders(encoder) is encoder for encoder in model.encoders.values())


@pytest.mark.slow
def test_two_processes_share_the_rows_and_write_the_encoders_of_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("-m", "setclip_cli", "align", str(world / "recipe.toml"), "--data", str(world / "data"), "--out")
    launch(1, *words, str(tmp_path / "one"), *TUNED)
    launch(2, *words, str(tmp_path / "two"), *TUNED)
    one, two = (load_tensors(tmp_path / run / "model.safetensors", fix="")[0] for run in ("one", "two"))
    assert one.keys() == two.keys()
    expected, features = by_hand(tmp_path / "two", world / "data")
    model = load_model(tmp_path / "two")
    with torch.no_grad():
        for modality, encoder in expected.items():
            found = model.encoders[modality](features[modality])  # type: ignore[index]
            torch.testing.assert_close(found, encoder(features[modality]), rtol=0, atol=1e-4)
