"""Claims about `layer = "best"`: what it measures, what it chooses, and that every command then uses that layer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import esm2_checkpoint, sentence_folder
from typer.testing import CliRunner

from setclip_cli.backbones import load_backbone
from setclip_cli.cli.app import app
from setclip_cli.evaluation.geometry import mutual_knn
from setclip_cli.features.layer_choice import NEIGHBOURS, PAIRS_NEEDED, _agreement, nearest_mask
from setclip_cli.run.config import load_config
from setclip_cli.run.model import load_model

MOTIFS = ("GKKLV", "LLIFA", "HDSCW", "MNPQR", "TTYYE")
WORDS = ("kinase", "transporter", "protease", "receptor", "ligase")
ROWS = 64


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 proteins and 64 captions of 5 families, every one of them in a known pair, and a recipe of 3-layer towers."""
    folder = tmp_path_factory.mktemp("layers")
    os.environ["SETCLIP_CACHE"] = str(folder / "cache")
    fasta, captions, pairs = [], [], ["left_modality,left_id,right_modality,right_id"]
    for number in range(ROWS):
        family = number % len(MOTIFS)
        fasta.append(f">P{number:03d} protein\n{MOTIFS[family] * (2 + number % 3)}{'ACDEFGHIKLMNPQ'[number % 14 :]}")
        captions.append(json.dumps({"id": f"c{number}", "text": f"{WORDS[family]} number {number}"}))
        pairs.append(f"protein,P{number:03d},caption,c{number}")
    (folder / "proteins.fasta").write_text("\n".join(fasta) + "\n")
    (folder / "captions.jsonl").write_text("\n".join(captions) + "\n")
    (folder / "pairs.csv").write_text("\n".join(pairs) + "\n")
    run("ingest", folder / "proteins.fasta", "--modality", "protein", "--out", folder / "data")
    with_pairs = ("--pairs", folder / "pairs.csv", "--out", folder / "data")
    run("ingest", folder / "captions.jsonl", "--modality", "caption", *with_pairs)
    (folder / "recipe.toml").write_text(
        f"""
        schema_version = 2
        method = "set-clip-plus"
        projection = {{ dim = 16, pca = 8 }}
        train = {{ steps = 2, batch = 16 }}
        [towers.protein]
        backbone = "esm:esm2_t6_8M_UR50D"
        layer = "best"
        weights = {str(esm2_checkpoint(folder / "esm", layers=3))!r}
        [towers.caption]
        backbone = "sentence-transformers:all-MiniLM-L6-v2"
        layer = "best"
        weights = {str(sentence_folder(folder / "text", layers=3))!r}
        """
    )
    return folder


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.stderr
    return result.stdout + result.stderr


def align(world: Path, out: Path, *settings: str, code: int = 0, extra: tuple[str, ...] = ()) -> str:
    overrides = [word for setting in settings for word in ("--set", setting)]
    return run("align", world / "recipe.toml", "--data", world / "data", "--out", out, *overrides, *extra, code=code)


def rows_of(world: Path, modality: str) -> list[str]:
    if modality == "protein":
        return (world / "proteins.fasta").read_text().splitlines()[1::2]
    return [json.loads(line)["text"] for line in (world / "captions.jsonl").read_text().splitlines()]


def test_agreement_is_the_mutual_nearest_neighbour_similarity_of_the_report() -> None:
    draw = np.random.default_rng(0)
    x = [draw.normal(size=(60, 7)).astype(np.float32) for _ in range(2)]
    y = [x[0] + draw.normal(size=(60, 7)).astype(np.float32) * size for size in (0.3, 1.0, 3.0)]
    masks = [torch.stack([nearest_mask(torch.from_numpy(rows)) for rows in side]) for side in (x, y)]
    unit = [[rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in side] for side in (x, y)]
    expected = [[mutual_knn(a, b, NEIGHBOURS).mean() for b in unit[1]] for a in unit[0]]
    np.testing.assert_allclose(_agreement(*masks).numpy(), expected, rtol=1e-5)


def test_the_best_pair_of_layers_is_found_told_and_used(world: Path, tmp_path: Path) -> None:
    told = align(world, tmp_path / "run")
    config = load_config(tmp_path / "run")
    measured: dict[tuple[int, int], float] = {}
    unit: dict[str, list[np.ndarray]] = {}  # type: ignore[type-arg]
    for modality, tower in config.towers.items():
        for layer in (1, 2, 3):
            backbone = load_backbone(tower.spec, modality=modality, weights=tower.weights, layer=layer)
            features = backbone.encode(rows_of(world, modality)).features
            unit.setdefault(modality, []).append(torch.nn.functional.normalize(features, dim=1).numpy())
    for left in range(3):
        for right in range(3):
            similarity = mutual_knn(unit["protein"][left], unit["caption"][right], NEIGHBOURS).mean()
            measured[left + 1, right + 1] = float(similarity)
    best = max(measured, key=lambda layers: (round(measured[layers], 6), layers))
    choice = config.layer_choice
    assert choice is not None
    assert (choice["layers"], choice["of"], choice["pairs"]) == (list(best), [3, 3], ROWS)
    assert choice["similarity"] == pytest.approx(measured[best], abs=1e-5)
    assert choice["last_similarity"] == pytest.approx(measured[3, 3], abs=1e-5)
    assert f"layers: protein {best[0]} of 3, caption {best[1]} of 3; mutual 10-nearest-neighbour" in told
    assert tuple(config.towers[modality].layer for modality in ("protein", "caption")) == best
    assert f"protein layer {best[0]} of 3" in (tmp_path / "run" / "README.md").read_text()

    model = load_model(tmp_path / "run")
    for modality, layer in zip(("protein", "caption"), best, strict=True):
        assert model.load_backbone(modality).layers == layer  # type: ignore[arg-type]
    run("embed", tmp_path / "run", world / "data", "--out", tmp_path / "embeddings")
    again = align(world, tmp_path / "again")  # from the cache
    assert [line for line in told.splitlines() if "layers:" in line] == [
        line for line in again.splitlines() if "layers:" in line
    ]
    assert (tmp_path / "run/config.json").read_bytes() == (tmp_path / "again/config.json").read_bytes()


def test_a_fixed_layer_stays_when_the_other_tower_looks_for_its_best(world: Path, tmp_path: Path) -> None:
    align(world, tmp_path / "run", "towers.caption.layer=-2")
    config = load_config(tmp_path / "run")
    assert config.towers["caption"].layer == 2
    assert config.layer_choice is not None
    assert config.layer_choice["layers"][1] == 2


def test_fixed_layers_need_no_pairs_and_are_part_of_the_run(world: Path, tmp_path: Path) -> None:
    settings = ("towers.protein.layer=1", "towers.caption.layer=-1", "pairs=0", "method=set-clip")
    align(world, tmp_path / "run", *settings)
    config = load_config(tmp_path / "run")
    assert (config.towers["protein"].layer, config.towers["caption"].layer) == (1, 3)
    assert config.layer_choice is None
    told = align(world, tmp_path / "run", *settings, "towers.protein.layer=2", code=2)
    assert "towers.protein.layer differ" in told


@pytest.mark.parametrize("extra", [(), ("--dry-run",)])
def test_too_few_pairs_are_counted(world: Path, tmp_path: Path, extra: tuple[str, ...]) -> None:
    told = align(world, tmp_path / "run", "pairs=20", code=2, extra=extra)
    assert f"'best': needs {PAIRS_NEEDED} known pairs or more that share no item; there are 20" in told
    assert not (tmp_path / "run/recipe.toml").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["towers.protein.layer=0"], "layer = 0: layers count from 1"),
        (["towers.protein.layer=bset"], "towers.protein.layer: must be a whole number or best, found 'bset'"),
        (["pairs=0"], "'best': this is measured on known pairs, and pairs = 0"),
        (["towers.protein.layer=4"], "towers.protein.layer = 4: esm:esm2_t6_8M_UR50D has layers 1 to 3"),
        (["towers.protein.pooling=attention"], "'attention': its query has to be trained, and the tower is frozen"),
        (["towers.caption.pooling=avg"], "choose one of: default, mean, cls, attention"),
    ],
)
def test_layers_and_poolings_that_cannot_be_are_refused(
    world: Path, tmp_path: Path, settings: list[str], words: str
) -> None:
    assert words in align(world, tmp_path / "run", *settings, code=2)
    assert not (tmp_path / "run/recipe.toml").exists()


def test_a_tower_tuned_with_attention_pooling_keeps_and_loads_its_query(world: Path, tmp_path: Path) -> None:
    towers = [f"towers.{modality}.{key}" for modality in ("protein", "caption") for key in ("pooling=attention",)]
    settings = (*towers, "towers.protein.trainable=last-1", "towers.caption.trainable=lora", "train.steps=3")
    align(world, tmp_path / "run", *settings, "towers.protein.layer=2", "towers.caption.layer=-1")
    model = load_model(tmp_path / "run")
    for modality in ("protein", "caption"):
        tuned = {name: value for name, value in model.tuned_tensors(modality).items() if "attention_pooling" in name}  # type: ignore[arg-type]
        assert len(tuned) == 1
        assert all(query.abs().max() > 1e-3 for query in tuned.values())  # at the projections' rate, from 0
        items = rows_of(world, modality)[:4]
        before = model.load_backbone(modality, initial=True).encode(items).features  # type: ignore[arg-type]
        assert not torch.allclose(model.load_backbone(modality).encode(items).features, before, atol=1e-6)  # type: ignore[arg-type]


def test_raw_features_by_untrained_attention_are_refused(world: Path, tmp_path: Path) -> None:
    told = run(
        *("embed", "--backbone", "esm:esm2_t6_8M_UR50D", "--weights", world / "esm" / "esm2_t6_8M_UR50D.pt"),
        *("--pooling", "attention", world / "data", "--out", tmp_path / "features"),
        code=2,
    )
    assert "--pooling 'attention': is learned, and this backbone is not trained" in told
