"""Claims about which known pairs a recipe trains on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from setclip_cli.dataset.dataset import Pair
from setclip_cli.dataset.modality import KINDS_OF_NAMES
from setclip_cli.errors import SetClipError
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.training import pair_items
from setclip_cli.training.known_pairs import KnownPairs, known_pairs, pairs_between, pairs_in_items

TOWERS: Any = {
    "image": {"backbone": "timm:tf_efficientnet_lite0"},
    "caption": {"backbone": "sentence-transformers:all-MiniLM-L6-v2"},
}


def dataset(joined: dict[str, str], groups: dict[str, str] | None = None, splits: dict[str, str] | None = None) -> Any:
    """Pairs caption -> image, every second one the other way round, and one of other modalities.

    Args:
        groups: Caption -> group. Captions that are not named have none.
        splits: Image -> split, "train" if it is not named.
    """
    splits = splits or {}
    pairs = [Pair("image", i, "caption", c, splits.get(i, "train")) for c, i in joined.items()]
    pairs = [pair.swapped() if place % 2 else pair for place, pair in enumerate(pairs)]
    pairs.append(Pair("protein", "p", "caption", "c0", "train"))
    captions = pa.table(
        {
            "id": pa.array(joined, pa.string()),
            "split": ["train"] * len(joined),
            "group": pa.array([(groups or {}).get(name) for name in joined], pa.string()),
        }
    )
    return SimpleNamespace(
        root=Path("data"),
        index=SimpleNamespace(sources=[]),
        pairs=lambda split: [pair for pair in pairs if split in (None, pair.split)],
        kind=lambda modality: KINDS_OF_NAMES[modality],
        of_kind=lambda *kinds: ["caption"] if "text" in kinds else [],
        shards=lambda *_: [SimpleNamespace(path="caption/train-00000.parquet")],
        columns=lambda *_: captions.column_names,
        read=lambda _, columns: captions.select(columns),
        table=lambda *_: captions,
    )


def one_to_one(count: int = 11) -> Any:
    return dataset({f"c{n}": f"i{n}" for n in range(count)})


def with_captions(images: int = 4, each: int = 3, *, grouped: bool) -> Any:
    joined = {f"i{n}#{m}": f"i{n}" for m in range(each) for n in range(images)}
    return dataset(joined, joined if grouped else None)


def drawn(data: Any, **settings: Any) -> KnownPairs:
    found = known_pairs(data, Recipe(towers=TOWERS, **settings))
    assert all((pair.left_modality, pair.right_modality) == ("image", "caption") for pair in found.pairs)
    assert len(found.items) == len(found.pairs)
    return found


def chosen(data: Any, **settings: Any) -> list[str]:
    return [pair.right_id for pair in drawn(data, **settings).pairs]


def refusal(data: Any, **settings: Any) -> SetClipError:
    with pytest.raises(SetClipError) as caught:
        drawn(data, **settings)
    return caught.value


def test_pairs_count_whichever_side_they_name_first() -> None:
    assert len(pairs_between(one_to_one(), "train", ("image", "caption"))) == 11


@pytest.mark.parametrize("unit", ["auto", "row"])
def test_more_pairs_only_ever_add_and_the_seed_decides_which_come_first(unit: str) -> None:
    whole = chosen(one_to_one(), pairs_unit=unit)
    assert sorted(whole) == sorted(f"c{n}" for n in range(11))
    for count in (1, 4, 10):
        assert chosen(one_to_one(), pairs=count, pairs_unit=unit) == whole[:count]
    assert chosen(one_to_one(), pairs=4, seed=1, pairs_unit=unit) != whole[:4]


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 6), (0.24, 3), (0.01, 1), (0.99, 11)])
def test_a_fraction_is_rounded_and_is_one_pair_at_least(fraction: float, count: int) -> None:
    assert len(chosen(one_to_one(), pairs=fraction)) == count


def test_more_pairs_than_there_are_is_an_error_that_gives_the_number() -> None:
    error = refusal(one_to_one(), pairs=12)
    assert "has 11 image-caption pairs in split 'train'" in error.problem
    assert "--set pairs=11" in error.fix


@pytest.mark.parametrize("grouped", [True, False])
def test_a_count_is_of_items_and_brings_all_their_pairs(grouped: bool) -> None:
    data = with_captions(grouped=grouped)
    found = drawn(data, pairs=2)
    assert (len(found.pairs), found.item_count) == (6, 2)
    assert len({pair.left_id for pair in found.pairs}) == 2
    assert found.items == [0, 0, 0, 1, 1, 1]
    assert chosen(data, pairs=3)[:6] == chosen(data, pairs=2)  # more pairs only add
    assert len(chosen(data, pairs=0.5)) == 6
    assert drawn(data).item_count == 4


def test_rows_are_counted_if_the_recipe_or_its_version_says_so() -> None:
    data = with_captions(grouped=True)
    old = drawn(data, pairs=5, schema_version=1)
    assert (len(old.pairs), old.item_count) == (5, None)
    assert old.pairs == drawn(data, pairs=5, pairs_unit="row").pairs
    # The draw of version 1, which a RUN of an earlier setclip has had: it may not change.
    assert chosen(data, pairs=5, schema_version=1) == ["i2#0", "i0#2", "i1#0", "i3#2", "i2#2"]
    assert drawn(data, pairs=2, schema_version=1, pairs_unit="group").item_count == 2


def test_captions_of_one_group_are_one_item_whatever_they_are_paired_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_items, "described", lambda *_: {})  # the groups are not the ids of images
    joined = {"a": "i1", "b": "i2", "c": "i2", "d": "i3", "e": "i4"}
    data = dataset(joined, {"a": "scene", "b": "scene", "d": "other"})
    found = pairs_in_items(data, "train", Recipe(towers=TOWERS))
    assert found.items == [0, 0, 0, 1, 2]  # c comes along, as a caption of i2


def test_a_group_means_the_row_that_evaluation_takes_it_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sources have an image 1.jpg, and so their captions have a group of one name: these are two items."""
    joined = {"a": "x/1.jpg", "b": "x/1.jpg", "c": "y/1.jpg", "d": "y/2.jpg"}
    means = {"a": "x/1.jpg", "b": None, "c": "y/1.jpg", "d": "x/1.jpg"}
    monkeypatch.setattr(pair_items, "described", lambda *_: means)
    data = dataset(joined, dict.fromkeys("abcd", "1.jpg"))
    found = pairs_in_items(data, "train", Recipe(towers=TOWERS))
    assert found.items == [0, 0, 1, 0]  # d is paired with one image and describes another: both are one item


def test_a_caption_without_a_group_does_not_join_the_items_that_it_is_paired_with() -> None:
    pairs = [Pair("image", f"i{n}", "caption", "many planes", "train") for n in range(5)]
    assert pair_items.items_of(pairs, {}) == [0, 1, 2, 3, 4]


def test_more_items_than_there_are_is_an_error_that_gives_both_numbers() -> None:
    error = refusal(with_captions(grouped=True), pairs=7)
    assert "pairs = 7: data has 4 items with 12 image-caption pairs in split 'train'" in error.problem
    assert "--set pairs=4" in error.fix
    assert "--set pairs_unit=row" in error.fix
    assert "pairs_unit" not in refusal(with_captions(grouped=True), pairs=13).fix  # there are not so many rows either


def test_groups_that_are_asked_for_and_missing_are_an_error() -> None:
    error = refusal(one_to_one(), pairs_unit="group")
    assert "no caption in the 11 image-caption pairs of split 'train' has a group" in error.problem
    assert "--set pairs_unit=row" in error.fix


@pytest.mark.parametrize("unit", ["auto", "group"])
def test_an_item_with_pairs_in_two_splits_is_an_error(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    monkeypatch.setattr(pair_items, "described", lambda *_: {})
    joined = {"a": "i1", "b": "i2", "c": "i3", "d": "i4"}
    data = dataset(joined, {"a": "scene", "b": "scene", "c": "far", "d": "far"}, {"i2": "test", "i3": "val", "i4": "x"})
    error = refusal(data, pairs_unit=unit)
    assert f"pairs_unit = {unit!r}: 1 item of split 'train' has pairs in another split too" in error.problem
    assert "the captions of image 'i1' (train) and image 'i2' (test) have one group" in error.problem
    assert chosen(data, pairs_unit="row") == ["a"]
    assert chosen(data, schema_version=1) == ["a"]
