"""Features that `setclip embed BACKBONE` made, perhaps on a cluster: checked, and put where `align` looks for them.

`align` looks for features of frozen backbones in the cache, and computes what it does not find there. So what is put
there is not computed again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.backbones import check_backbone
from setclip_cli.embedding.embeddings import Embeddings, open_embeddings
from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.features.frozen import has_features, keep_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset, Shard
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.embeddings import EmbeddedShard
    from setclip_cli.recipe.recipe import Recipe


def open_given(
    features: str | Path | Sequence[str | Path], recipe: Recipe, dataset: Dataset
) -> dict[Modality, Embeddings]:
    """The EMBEDDINGS that hold features of the recipe's backbones; what can be checked without weights is checked.

    Args:
        features: EMBEDDINGS folders, one for a side.

    Raises:
        SetClipError: a folder is not finished, or does not hold all features of a backbone of the recipe for the rows
            that `align` reads; two hold those of one side.
    """
    found: dict[Modality, Embeddings] = {}
    for path in [features] if isinstance(features, str | Path) else features:
        opened = open_embeddings(path, of_backbone=str(dataset.root))
        _require_whole_features(opened)
        sides = [modality for modality in recipe.modalities() if modality in opened.index.towers]
        if not sides:
            raise _usage(
                opened,
                f"holds features of {', '.join(opened.modalities())} rows, and the recipe aligns "
                f"{' and '.join(recipe.modalities())}",
                "give features of one of these",
            )
        for modality in sides:
            if modality in found:
                raise _usage(opened, f"{found[modality].root} holds {modality} features too", "give one of them")
            _require_tower(opened, modality, recipe)
            for shard in _shards_read(recipe, dataset, modality):
                _require_shard(opened, shard, dataset)
            found[modality] = opened
    return found


def use_given(given: Embeddings, backbone: Backbone, recipe: Recipe, dataset: Dataset) -> None:
    """Puts the features of a backbone into the cache, if they are not there.

    Raises:
        SetClipError: they are of another backbone; a file has changed, or holds features that cannot be used; the cache
            cannot be written.
    """
    modality = backbone.modality
    tower = given.index.towers[modality]
    if tower.identity != backbone.identity:
        raise _other_features(given, backbone, recipe)
    for shard in _shards_read(recipe, dataset, modality):
        if has_features(backbone, shard):
            continue
        stored = _require_shard(given, shard, dataset)
        values = np.concatenate([np.empty((0, backbone.dim), np.float32), *given.blocks(stored)])
        counts = [stored.truncated, stored.windowed, stored.replaced_letters]
        keep_features(backbone, shard, torch.from_numpy(values), counts)


def _other_features(given: Embeddings, backbone: Backbone, recipe: Recipe) -> SetClipError:
    """What differs, as far as names tell it, between features and those of the recipe."""
    modality = backbone.modality
    tower, wanted = given.index.towers[modality], recipe.towers[modality]
    made = f"{given.root}: its {modality} features were made by {tower.spec}"
    leave = f"leave {argument('features')} out"
    if wanted.layer != -1:  # embed has no layers
        return SetClipError(
            f"{made} up to its last layer, and the recipe has towers.{modality}.layer = {wanted.layer!r}", fix=leave
        )
    if tower.pooling != backbone.pooling:
        learned = backbone.pooling == "attention" and backbone.kind != "video"  # embed does not have it
        again = f"{_again(given)} with {argument('pooling')} {backbone.pooling}, or "
        return SetClipError(
            f"{made} with pooling {tower.pooling!r}, and the recipe has {backbone.pooling!r}",
            fix=leave if learned else again + leave,
        )
    if tower.preprocessing != backbone.preprocessing:
        keys = sorted(tower.preprocessing.keys() | backbone.preprocessing.keys())
        other = [key for key in keys if tower.preprocessing.get(key) != backbone.preprocessing.get(key)]
        return SetClipError(
            f"{made} with another preprocessing ({', '.join(other)})", fix=f"{_again(given)}, or {leave}"
        )
    return SetClipError(
        f"{made} with other weights than the recipe's {backbone.spec}",
        fix=f"{_again(given)} with {argument('weights')} {wanted.weights}, or {leave}",
    )


def _shards_read(recipe: Recipe, dataset: Dataset, modality: Modality) -> list[Shard]:
    splits = [recipe.train.split, *([recipe.validation.split] if recipe.validation.every else [])]
    return [shard for split in dict.fromkeys(splits) for shard in dataset.shards(modality, split)]


def _require_whole_features(given: Embeddings) -> None:
    """Raises SetClipError if the rows are not what a backbone gives, in float32."""
    index, shown = given.index, argument("features")
    if index.method != "features":
        raise _usage(
            given,
            "holds the embeddings of a RUN, not the features of a backbone",
            f"make them with setclip embed {argument('backbone', '--backbone')} ..., or leave {shown} out",
        )
    kept = {"dtype": index.dtype, "precision": index.precision}
    for name, value in kept.items():
        if value != "float32":
            raise _usage(
                given,
                f"its features were made with {argument(name)} {value}, and training reads float32",
                f"{_again(given)} without {argument(name)}",
            )
    if index.width is not None:
        raise _usage(
            given,
            f"its features were cut to {index.width} numbers",
            f"{_again(given)} without {argument('width')}",
        )


def _require_tower(given: Embeddings, modality: Modality, recipe: Recipe) -> None:
    """Raises SetClipError if another backbone made the features, as far as names tell it."""
    tower, wanted = given.index.towers[modality], recipe.towers[modality]
    spec = check_backbone(wanted.backbone, modality=modality, kind=tower.kind, pooling=wanted.pooling)
    if spec.kind == "vector":
        raise _usage(
            given,
            f"the recipe reads the {modality} vectors of the DATASET themselves",
            f"leave {argument('features')} out",
        )
    if tower.spec != str(spec):
        raise _usage(
            given,
            f"its {modality} features were made by {tower.spec}, and the recipe has {wanted.backbone}",
            f"embed with {wanted.backbone}, or change towers.{modality}.backbone",
        )


def _require_shard(given: Embeddings, shard: Shard, dataset: Dataset) -> EmbeddedShard:
    """The features of a shard. Raises SetClipError if they are not there, or not those of all its rows."""
    stored = {each.path: each for each in given.index.shards}.get(shard.path)
    if stored is None or stored.input_sha256 != shard.sha256:
        same = any(each.input_sha256 == other.sha256 for each in given.index.shards for other in dataset.index.shards)
        why = "does not hold the features of" if stored is None else "holds the features of other rows than those of"
        raise SetClipError(
            f"{given.root}: {why} {dataset.root / shard.path}"
            + ("" if same else f"; they were made of {given.index.dataset}"),
            fix=f"{_again(given)} for {dataset.root}, with all splits that the recipe reads",
        )
    if stored.rows != shard.rows:
        first, reason = next(iter(stored.bad.items()), ("", "it is not there"))
        raise SetClipError(
            f"{given.root}: {shard.rows - stored.rows} of the {shard.rows} rows of {shard.path} have no features, the "
            f"first {first!r}: {reason}",
            fix="remove these rows from their source, then ingest and embed again",
        )
    return stored


def _again(given: Embeddings) -> str:
    tower = next(iter(given.index.towers.values()))
    return f"run setclip embed {argument('backbone', '--backbone')} {tower.spec} into a new folder"


def _usage(given: Embeddings, problem: str, fix: str) -> SetClipError:
    return UsageError(f"{argument('features')} {given.root}: {problem}", fix=fix)
