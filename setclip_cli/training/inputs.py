"""What `align` trains on: the backbones, their features of the DATASET's rows, rows for validation, initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from setclip_cli.backbones.compiling import compile_blocks
from setclip_cli.backbones.devices import resolve_training_precision
from setclip_cli.backbones.tuning import make_trainable
from setclip_cli.console import note
from setclip_cli.features.frozen import FeatureTable, augmented_features, frozen_features, open_features
from setclip_cli.features.raw_rows import open_raw_rows
from setclip_cli.remote.copies import local_path
from setclip_cli.run.config import load_config
from setclip_cli.run.model import load_model
from setclip_cli.training.early_stopping import EarlyStopping, Validation, ValidationRows
from setclip_cli.training.known_pairs import numbers_of, pair_rows, pairs_between, pairs_in_items
from setclip_cli.training.landmarks import LargePool, draw_landmarks, is_large
from setclip_cli.training.preconditions import other_tower
from setclip_cli.training.tower import InitialWeights, Pool, TunedBackbone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.recipe.recipe import Recipe


@dataclass(frozen=True)
class SideInput:
    """One side: what its tower trains on.

    Attributes:
        identity: Of the backbone as it was found, before anything is trained.
        ids: Of the unpaired rows, in the order of the features; of a large pool those of its landmarks.
        features: (n, p) float32 on the CPU, of the same rows.
        pool: The same rows on the device of the training, and all rows of a large pool.
        validation: Held-out rows, if the recipe validates.
    """

    modality: Modality
    backbone: Backbone
    identity: str
    ids: list[str]
    features: Tensor
    pool: Pool
    validation: ValidationRows | None


def read_side(recipe: Recipe, dataset: Dataset, backbone: Backbone, *, announce: bool) -> SideInput:
    """Reads the rows of a side and makes its backbone trainable if the recipe tunes it.

    Features come from the cache, or from the backbone before its weights change.
    """
    modality, identity = backbone.modality, backbone.identity
    table, large = _read_pool(recipe, dataset, backbone, recipe.train.split)
    validation = _validation_rows(recipe, dataset, backbone) if recipe.validation.every else None
    device = backbone.device
    features = table.features.to(device)
    if recipe.towers[modality].frozen:
        views = _views(recipe, dataset, backbone, device) if large is None else None
        pool = Pool(features, views=views, large=large)
    else:
        pool = Pool(features, tuned=_tuned(recipe, dataset, backbone, device, announce=announce), large=large)
    return SideInput(modality, backbone, identity, table.ids, table.features, pool, validation)


def _read_pool(
    recipe: Recipe, dataset: Dataset, backbone: Backbone, split: str
) -> tuple[FeatureTable, LargePool | None]:
    """Ids and features of all rows of a split; of a large one those of its landmarks, and what reads the others."""
    modality, landmarks = backbone.modality, recipe.train.landmarks
    count = sum(shard.rows for shard in dataset.shards(modality, split))
    if not is_large(count, landmarks):
        return frozen_features(backbone, dataset, modality, split), None
    left, right = recipe.modalities()
    ids = dataset.table(modality, split, ["id"])["id"]
    known = numbers_of(
        ids,
        (pair.left_id if modality == left else pair.right_id for pair in pairs_between(dataset, split, (left, right))),
    )
    chosen = draw_landmarks(
        count,
        torch.tensor(list(known.values()), dtype=torch.int64),
        landmarks=landmarks,
        seed=recipe.seed,
        side="left" if modality == left else "right",
    )
    rows = open_features(backbone, dataset, modality, split)
    views = tuple(
        open_features(backbone, dataset, modality, split, view=view)
        for view in range(_view_count(recipe) if recipe.towers[modality].frozen else 0)
    )
    table = FeatureTable(ids.take(pa.array(chosen.numpy())).to_pylist(), rows.take(chosen))
    return table, LargePool(rows, chosen, views)


def build_early_stopping(recipe: Recipe, dataset: Dataset, sides: Sequence[SideInput]) -> EarlyStopping | None:
    """None if the recipe does not validate.

    Raises:
        SetClipError: a known pair of the validation split names a row that the split does not have.
    """
    left, right = (side.validation for side in sides)
    if left is None or right is None:
        return None
    split, structure = recipe.validation.split, recipe.objective.neighbourhood
    known = pairs_in_items(dataset, split, recipe)
    validation = Validation(
        left,
        right,
        pair_rows(known.pairs, left.ids, right.ids, split=split),
        torch.tensor(known.items, dtype=torch.int64),
        feature_temperature=structure.feature_temperature,
        temperature=structure.temperature,
    )
    return EarlyStopping(validation, every=recipe.validation.every, patience=recipe.validation.patience)


def loads_half(recipe: Recipe, modality: Modality) -> bool:
    """Whether a tower's backbone is loaded as half of a joint model: as the RUN that is the start did, if there is one.

    Raises:
        SetClipError: ``init_from`` names no finished RUN.
    """
    if not recipe.towers[modality].joint or recipe.init_from is None:
        return recipe.towers[modality].joint
    tower = load_config(local_path(recipe.init_from)).towers.get(modality)
    return tower is not None and tower.joint


def initial_weights(recipe: Recipe, sides: Sequence[SideInput]) -> tuple[InitialWeights, InitialWeights] | None:
    """The weights of the RUN that ``init_from`` names; None without one.

    Raises:
        SetClipError: it is not a finished RUN, or its modalities or backbones are others.
    """
    if recipe.init_from is None:
        return None
    model = load_model(local_path(recipe.init_from))
    found = []
    for side in sides:
        tower = model.config.towers.get(side.modality)
        if tower is None or tower.identity != side.identity:
            raise other_tower(recipe, side.modality, tower)
        found.append(InitialWeights(model.encoders[side.modality], model.tuned_tensors(side.modality)))
    return found[0], found[1]


def _views(recipe: Recipe, dataset: Dataset, backbone: Backbone, device: torch.device) -> Tensor | None:
    """(k, n, p) features of augmented views; None if the recipe asks for none."""
    split = recipe.train.split
    views = [
        augmented_features(backbone, dataset, backbone.modality, split, view=view)
        for view in range(_view_count(recipe))
    ]
    return torch.stack(views).to(device) if views else None


def _view_count(recipe: Recipe) -> int:
    """Augmented views of each row that the recipe asks for."""
    term = recipe.objective.self_supervised
    return term.views if term.weight else 0


def _tuned(
    recipe: Recipe, dataset: Dataset, backbone: Backbone, device: torch.device, *, announce: bool
) -> TunedBackbone:
    tower = recipe.towers[backbone.modality]
    raw_rows = open_raw_rows(dataset, backbone.modality, recipe.train.split, backbone.column)
    make_trainable(backbone, tower.trainable, lora_rank=tower.lora_rank, checkpointing=tower.gradient_checkpointing)
    backbone.precision = resolve_training_precision(recipe.train.precision, device)
    if recipe.train.compile and (reason := compile_blocks(backbone)) and announce:
        note(f"note: train.compile: this machine cannot compile ({reason}); training goes on without it")
    lengths = None if backbone.kind in ("image", "video") else torch.tensor(raw_rows.lengths())
    return TunedBackbone(backbone, raw_rows, lengths)


def _validation_rows(recipe: Recipe, dataset: Dataset, backbone: Backbone) -> ValidationRows:
    modality, split = backbone.modality, recipe.validation.split
    table, large = _read_pool(recipe, dataset, backbone, split)
    items = None
    if not recipe.towers[modality].frozen:
        raw_rows = open_raw_rows(dataset, modality, split, backbone.column)
        items = raw_rows.take(range(len(raw_rows)) if large is None else large.landmarks.tolist())
    return ValidationRows(table.ids, table.features, items)
