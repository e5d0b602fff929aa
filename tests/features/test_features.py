"""Claims about the feature cache: computed once, keyed by everything the features depend on, never half there."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.esm2 import Esm2Backbone
from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.features.frozen import frozen_features


@pytest.fixture
def backbone(tiny_esm2: Path) -> Esm2Backbone:
    loaded = load_backbone("esm:esm2_t6_8M_UR50D", modality="protein", weights=str(tiny_esm2))
    assert isinstance(loaded, Esm2Backbone)
    return loaded


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return open_dataset(tiny.write_dataset(tmp_path / "data", {"protein": tiny.proteins(10)}))


def no_encoding(*_: object) -> None:
    raise AssertionError("the backbone ran")


def test_rows_come_in_the_order_of_the_shards_and_equal_the_backbones_own(
    backbone: Esm2Backbone, dataset: Dataset, tmp_path: Path
) -> None:
    table = frozen_features(backbone, dataset, "protein", "train", cache_dir=tmp_path / "cache")
    assert table.ids == [f"protein-{n}" for n in range(10)]
    torch.testing.assert_close(table.features, backbone.encode(tiny.proteins(10)).features, atol=1e-5, rtol=0)


def test_a_second_time_no_backbone_runs(
    backbone: Esm2Backbone, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = frozen_features(backbone, dataset, "protein", "train", cache_dir=tmp_path / "cache")
    monkeypatch.setattr(Esm2Backbone, "encode", no_encoding)
    second = frozen_features(backbone, dataset, "protein", "train", cache_dir=tmp_path / "cache")
    assert torch.equal(first.features, second.features)


def test_another_pooling_or_another_shard_is_another_entry(
    backbone: Esm2Backbone, dataset: Dataset, tmp_path: Path, tiny_esm2: Path
) -> None:
    cls = load_backbone("esm:esm2_t6_8M_UR50D", modality="protein", weights=str(tiny_esm2), pooling="cls")
    for each in (backbone, cls):
        frozen_features(each, dataset, "protein", None, cache_dir=tmp_path / "cache")
    other = open_dataset(tiny.write_dataset(tmp_path / "other", {"protein": tiny.proteins(4, seed=9)}))
    frozen_features(backbone, other, "protein", None, cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 3 + 3 + 1


def test_a_damaged_entry_is_computed_again(backbone: Esm2Backbone, dataset: Dataset, tmp_path: Path) -> None:
    first = frozen_features(backbone, dataset, "protein", "train", cache_dir=tmp_path / "cache")
    for path in (tmp_path / "cache" / "features").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    second = frozen_features(backbone, dataset, "protein", "train", cache_dir=tmp_path / "cache")
    assert torch.equal(first.features, second.features)


def test_counts_survive_the_cache(backbone: Esm2Backbone, tmp_path: Path) -> None:
    root = tiny.write_dataset(tmp_path / "data", {"protein": ["MJJ", "ACDE" * 300, "M"]})
    for _ in range(2):
        table = frozen_features(backbone, open_dataset(root), "protein", None, cache_dir=tmp_path / "cache")
        assert (table.windowed, table.replaced_letters, table.truncated) == (1, 2, 0)


def test_a_shard_changed_after_ingest_is_refused_even_with_a_warm_cache(
    backbone: Esm2Backbone, dataset: Dataset, tmp_path: Path
) -> None:
    frozen_features(backbone, dataset, "protein", None, cache_dir=tmp_path / "cache")
    path = dataset.root / "protein" / "train-00001.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SetClipError, match=r"train-00001\.parquet: has changed since ingest"):
        frozen_features(backbone, dataset, "protein", None, cache_dir=tmp_path / "cache")


def test_a_row_that_cannot_be_read_is_named(backbone: Esm2Backbone, tmp_path: Path) -> None:
    root = tiny.write_dataset(tmp_path / "data", {"protein": ["MK", "M*K"]})
    with pytest.raises(SetClipError, match="row 'protein-1': '\\*' at residue 2"):
        frozen_features(backbone, open_dataset(root), "protein", None, cache_dir=tmp_path / "cache")


def test_features_that_are_not_finite_are_never_cached(
    backbone: Esm2Backbone, dataset: Dataset, tmp_path: Path
) -> None:
    backbone.module.emb_layer_norm_after.bias[0] = float("nan")
    with pytest.raises(
        SetClipError, match="gives 4 of 4 rows a feature vector that is not finite, the first 'protein-0'"
    ):
        frozen_features(backbone, dataset, "protein", None, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache" / "features").exists()
