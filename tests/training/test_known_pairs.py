"""Claims about which known pairs a recipe trains on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from setclip_cli.dataset.dataset import Pair
from setclip_cli.errors import SetClipError
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.training.known_pairs import known_pairs, pairs_between


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
        schema_version = 1
        towers.image.backbone = "timm:tf_efficientnet_lite0"
        towers.caption.backbone = "sentence-transformers:all-MiniLM-L6-v2"
        """
    )
    return load_recipe(path)


def dataset(count: int = 11) -> Any:
    """Pairs of images and captions, every second one the other way round, and one of other modalities."""
    pairs = [Pair("image", f"i{n}", "caption", f"c{n}", "train") for n in range(count)]
    pairs = [pair.swapped() if n % 2 else pair for n, pair in enumerate(pairs)]
    other = Pair("protein", "p", "caption", "c0", "train")
    return SimpleNamespace(root=Path("data"), pairs=lambda split: [*pairs, other] if split == "train" else [])


def chosen(recipe: Recipe, **settings: Any) -> list[str]:
    found = known_pairs(dataset(), recipe.with_settings(**settings))
    assert all((pair.left_modality, pair.right_modality) == ("image", "caption") for pair in found)
    assert all(pair.left_id[1:] == pair.right_id[1:] for pair in found)
    return [pair.left_id for pair in found]


def test_pairs_count_whichever_side_they_name_first() -> None:
    assert len(pairs_between(dataset(), "train", ("image", "caption"))) == 11


def test_more_pairs_only_ever_add_and_the_seed_decides_which_come_first(recipe: Recipe) -> None:
    whole = chosen(recipe)
    assert sorted(whole) == sorted(f"i{n}" for n in range(11))
    for count in (1, 4, 10):
        assert chosen(recipe, pairs=count) == whole[:count]
    assert chosen(recipe, pairs=4, seed=1) != whole[:4]


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 6), (0.24, 3), (0.01, 1), (0.99, 11)])
def test_a_fraction_is_rounded_and_is_one_pair_at_least(recipe: Recipe, fraction: float, count: int) -> None:
    assert len(chosen(recipe, pairs=fraction)) == count


def test_more_pairs_than_there_are_is_an_error_that_gives_the_number(recipe: Recipe) -> None:
    with pytest.raises(SetClipError, match="has 11 image-caption pairs in split 'train'") as caught:
        chosen(recipe, pairs=12)
    assert "--set pairs=11" in caught.value.fix
