"""Claims about trained backbones: which weights move, what is kept of them, and memory-saving that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import TINY_TIMM, esm2_checkpoint, sentence_folder, timm_weights
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.augment import augment_protein, augment_text
from setclip_cli.backbones.base import Backbone
from setclip_cli.backbones.tuning import apply_tuned, make_trainable
from setclip_cli.dataset.dataset import Dataset, DatasetIndex, write_shard
from setclip_cli.dataset.schemas import schema_of
from setclip_cli.errors import SetClipError
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.training.build import build_training
from setclip_cli.training.tower import Pool, TunedBackbone
from setclip_cli.training.training import Training

SEQUENCES = ["GKKLVACD" * (2 + row % 3) + "ACDEFGHIKLMNPQRSTVWY"[: row + 1] for row in range(12)]
TEXTS = [f"entry {row} is a kinase of family {row % 3}" for row in range(12)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "protein": esm2_checkpoint(folder / "esm"),
        "caption": sentence_folder(folder / "text"),
        "image": timm_weights(folder / "timm"),
    }


def backbone_of(weights: dict[str, Path], modality: str) -> Backbone:
    specs = {
        "protein": "esm:esm2_t6_8M_UR50D",
        "caption": "sentence-transformers:all-MiniLM-L6-v2",
        "image": f"timm:{TINY_TIMM}",
    }
    return load_backbone(specs[modality], modality=modality, weights=str(weights[modality]))  # type: ignore[arg-type]


def tuned_tensors(backbone: Backbone) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in backbone.module.named_parameters() if value.requires_grad}


def recipe_of(folder: Path, *, trainable: str = "full", chunk: int = 64, method: str = "set-clip-plus") -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(
        f"""
        schema_version = 2
        method = "{method}"
        projection = {{ dim = 8, pca = 6 }}
        train = {{ steps = 4, batch = 9, pairs_per_batch = 4, chunk = {chunk} }}
        optim = {{ backbone_lr = 1e-3 }}
        towers.protein = {{ backbone = "esm:esm2_t6_8M_UR50D", trainable = "{trainable}" }}
        towers.caption = {{ backbone = "sentence-transformers:all-MiniLM-L6-v2", trainable = "{trainable}" }}
        """
    )
    return load_recipe(path)


class ListItems:
    """Raw items held in memory."""

    def __init__(self, values: list[str]) -> None:
        self.values = values

    def take(self, rows: list[int]) -> list[str]:
        return [self.values[row] for row in rows]


def training_of(recipe: Recipe, weights: dict[str, Path]) -> Training:
    sides = []
    for modality, values in (("protein", SEQUENCES), ("caption", TEXTS)):
        backbone = backbone_of(weights, modality)
        features = backbone.encode(values).features
        make_trainable(backbone, recipe.towers[modality].trainable)  # type: ignore[index]
        sides.append(Pool(features, tuned=TunedBackbone(backbone, ListItems(values))))  # type: ignore[arg-type]
    return build_training(recipe, sides[0], sides[1], torch.arange(4).repeat(2, 1).T.contiguous())


def gradients(training: Training) -> dict[str, Tensor]:
    training.advance()
    return {name: value.grad.clone() for name, value in training.updater.weights.items() if value.grad is not None}


@pytest.mark.parametrize("method", ["set-clip-plus", "clip"])
def test_gradient_caching_gives_the_gradient_of_one_pass(tmp_path: Path, weights: dict[str, Path], method: str) -> None:
    """Chunks of 2 and an uneven last one, every tuned weight of both towers."""
    whole = gradients(training_of(recipe_of(tmp_path, chunk=64, method=method), weights))
    chunked = gradients(training_of(recipe_of(tmp_path, chunk=2, method=method), weights))
    assert whole.keys() == chunked.keys()
    assert any("backbone" in name for name in whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(chunked[name], gradient, rtol=1e-3, atol=1e-5)


def test_averaged_weights_of_a_backbone_are_those_kept(weights: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, trainable="last-1")
    training = training_of(recipe.with_settings(optim={**recipe.optim.model_dump(), "ema": 0.9}), weights)
    training.advance()
    for side, kept in zip(("left", "right"), training.tuned(), strict=True):
        assert kept
        for name, value in kept.items():
            assert value.equal(training.updater.averages[f"{side}.backbone.{name}"])
    assert any(
        not value.equal(training.updater.weights[f"left.backbone.{name}"])
        for name, value in training.tuned()[0].items()
    )


def test_features_for_training_equal_those_for_embedding(weights: dict[str, Path]) -> None:
    long_protein = "ACDEFGHIKLMNPQRSTVWY" * 60  # more than one window
    for modality, values in (("protein", [*SEQUENCES, long_protein]), ("caption", TEXTS)):
        backbone = backbone_of(weights, modality)
        embedded = backbone.encode(values).features
        with torch.no_grad():
            torch.testing.assert_close(backbone.features(backbone.prepare(values)), embedded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trainable", ["last-1", "lora", "full"])
@pytest.mark.parametrize("modality", ["protein", "caption", "image"])
def test_what_is_kept_of_a_tuned_backbone_rebuilds_it(weights: dict[str, Path], modality: str, trainable: str) -> None:
    tuned = backbone_of(weights, modality)
    total = sum(1 for _ in tuned.module.parameters())
    if modality == "image" and trainable == "lora":
        with pytest.raises(SetClipError, match="no linear layer"):
            make_trainable(tuned, "lora")
        return
    make_trainable(tuned, trainable)
    assert tuned_tensors(tuned)
    if trainable == "full":
        assert len(tuned_tensors(tuned)) == total
    elif trainable == "last-1":
        assert len(tuned_tensors(tuned)) < total
    with torch.no_grad():
        for name, parameter in tuned.module.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    kept = {name: value.clone() for name, value in tuned_tensors(tuned).items()}
    items: list[str] | list[bytes] = {"protein": SEQUENCES, "caption": TEXTS, "image": [png()]}[modality]
    expected = tuned.encode(items).features

    fresh = backbone_of(weights, modality)
    before, identity = fresh.encode(items).features, fresh.identity
    apply_tuned(fresh, trainable, kept, lora_rank=8)
    torch.testing.assert_close(fresh.encode(items).features, expected)
    assert not torch.allclose(before, expected, atol=1e-3)
    assert fresh.identity != identity


def png() -> bytes:
    import io

    from PIL import Image

    content = io.BytesIO()
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(content, "PNG")
    return content.getvalue()


def test_fresh_adapters_change_nothing(weights: dict[str, Path]) -> None:
    backbone = backbone_of(weights, "protein")
    before = backbone.encode(SEQUENCES).features
    make_trainable(backbone, "lora", lora_rank=4)
    torch.testing.assert_close(backbone.encode(SEQUENCES).features, before)


def test_an_adapter_adds_twice_its_product_and_always_starts_the_same(weights: dict[str, Path]) -> None:
    """W x + b + (alpha / rank) B A x with alpha = 2 rank (Hu et al. 2021); an old RUN's weights count on the 2."""
    first, second = (backbone_of(weights, "protein") for _ in range(2))
    for backbone in (first, second):
        make_trainable(backbone, "lora", lora_rank=4)
    linear, again = (backbone.module.get_submodule("layers.0.fc1") for backbone in (first, second))
    own, other = dict(linear.named_parameters()), dict(again.named_parameters())
    assert torch.equal(own["lora_A.default.weight"], other["lora_A.default.weight"])
    x = torch.randn(3, 32)
    with torch.no_grad():
        own["lora_B.default.weight"].normal_()
        update = own["lora_B.default.weight"] @ own["lora_A.default.weight"]
        expected = x @ (own["base_layer.weight"] + 2 * update).T + own["base_layer.bias"]
        torch.testing.assert_close(linear(x), expected, atol=1e-4, rtol=1e-4)


def test_more_blocks_than_there_are_is_refused_with_their_number(weights: dict[str, Path]) -> None:
    with pytest.raises(SetClipError, match="has 2 blocks"):
        make_trainable(backbone_of(weights, "protein"), "last-3")


@pytest.mark.parametrize("modality", ["protein", "caption"])
def test_only_the_last_block_moves_when_only_it_is_trained(
    tmp_path: Path, weights: dict[str, Path], modality: str
) -> None:
    training = training_of(recipe_of(tmp_path, trainable="last-1"), weights)
    tower = training.towers[0 if modality == "protein" else 1]
    assert tower.pool.tuned is not None
    before = {name: value.clone() for name, value in tower.pool.tuned.backbone.module.state_dict().items()}
    training.advance()
    moved = {
        name
        for name, value in tower.pool.tuned.backbone.module.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved
    assert not any(".0." in name.partition("layer")[2] for name in moved)
    assert not any("embed" in name for name in moved)


def test_views_of_text_and_protein_depend_on_the_seed_alone() -> None:
    sentence, residues = "one two three four five six seven eight", "ACDEFGHIKLMNPQRSTVWY" * 3
    for augment, item in ((augment_text, sentence), (augment_protein, residues)):
        views = [augment(item, seed) for seed in range(20)]
        assert views == [augment(item, seed) for seed in range(20)]
        assert len(set(views)) > 5
    assert all(len(augment_protein(residues, seed)) >= 0.7 * len(residues) for seed in range(50))
    assert augment_text("too short here", 0) == "too short here"
    assert augment_protein("M", 0) in {"M", "X"}


@pytest.mark.parametrize(("modality", "augment"), [("protein", augment_protein), ("caption", augment_text)])
def test_a_prepared_view_is_the_augmented_item(
    weights: dict[str, Path], modality: str, augment: Callable[[str, int], str]
) -> None:
    values, seeds = {"protein": SEQUENCES, "caption": TEXTS}[modality][:3], [5, 6, 7]
    backbone = backbone_of(weights, modality)
    with torch.no_grad():
        views = backbone.features(backbone.prepare(values, views=seeds))
        expected = backbone.features(backbone.prepare([augment(*item) for item in zip(values, seeds, strict=True)]))
        assert not torch.allclose(views, backbone.features(backbone.prepare(values)), atol=1e-3)
    torch.testing.assert_close(views, expected)


def test_items_come_back_by_row_without_reading_all(tmp_path: Path) -> None:
    import pyarrow as pa

    from setclip_cli.features.raw_rows import open_raw_rows

    rows = [
        {"id": f"p{row}", "split": "train", "source": "s", "sha256": "0", "label": None, "sequence": text}
        | {"length": len(text), "description": None}
        for row, text in enumerate(SEQUENCES)
    ]
    shards = [
        write_shard(tmp_path, f"protein/train-{number:05d}.parquet", table, modality="protein", split="train")
        for number, table in enumerate(
            pa.Table.from_pylist(part, schema=schema_of("protein")) for part in (rows[:5], rows[5:])
        )
    ]
    dataset = Dataset(tmp_path, DatasetIndex(shards=shards))
    for _ in range(2):  # made, then found
        items = open_raw_rows(dataset, "protein", "train", "sequence", cache_dir=tmp_path / "cache")
        assert len(items) == 12
        assert items.take([11, 0, 5]) == [SEQUENCES[11], SEQUENCES[0], SEQUENCES[5]]
