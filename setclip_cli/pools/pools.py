"""The two pools of a split: what suggestions, checks of pairs, matches and inspections look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from setclip_cli.backbones.devices import resolve_device
from setclip_cli.console import note
from setclip_cli.dataset.band_scale import require_bands
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.modality import KINDS_OF_NAMES
from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.features.frozen import frozen_features
from setclip_cli.features.layer_choice import load_tower_backbone
from setclip_cli.files.documents import read_toml
from setclip_cli.pools.memory import require_memory
from setclip_cli.pools.towers import recipe_for
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.run.config import RECIPE_NAME, load_config, require_file
from setclip_cli.run.model import load_model
from setclip_cli.training.known_pairs import known_pairs, pair_rows, pairs_in_items
from setclip_cli.training.tower_bands import tower_bands
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality, RowKind
    from setclip_cli.features.frozen import FeatureTable
    from setclip_cli.run.model import Model

FALLBACK = "the default towers for these kinds of rows"


@dataclass(frozen=True)
class PoolSide:
    """All rows of one modality and split.

    Attributes:
        ids: In the order of the features.
        features: (n, p) float32 of the frozen backbone; of a RUN that tuned it, of the tuned one.
        embeddings: (n, d) float32 unit rows by the RUN; None without a RUN.
    """

    modality: Modality
    kind: RowKind
    ids: list[str]
    features: Tensor
    embeddings: Tensor | None = None


@dataclass(frozen=True)
class Pools:
    """Both sides, and the pairs that are known between them.

    Attributes:
        pairs: (b, 2) int64: for each known pair of the split its left and its right row; b may be 0.
        items: (b,) int64: for each pair the number of its item, as the recipe counts items.
        trained_on: (b,) bool: the pairs that the RUN was trained with. None without a RUN, and if the DATASET has
            changed since the training, for then nothing says which they were.
        recipe: Of the RUN, as given, or of the towers that fit the DATASET.
    """

    dataset: Dataset
    split: str
    left: PoolSide
    right: PoolSide
    pairs: Tensor
    items: Tensor
    trained_on: Tensor | None
    recipe: Recipe
    run: Path | None

    @property
    def sides(self) -> tuple[PoolSide, PoolSide]:
        """(left, right)."""
        return self.left, self.right

    @property
    def item_count(self) -> int:
        """Known items; an image with its five captions is one."""
        return len(set(self.items.tolist()))


@dataclass(frozen=True)
class Towers:
    """The two towers that read a DATASET: of a RUN, or frozen backbones.

    Attributes:
        recipe: Of the RUN, as given, or of the towers that fit the DATASET; it names the left side first.
        model: The RUN; None for backbones alone.
    """

    dataset: Dataset
    recipe: Recipe
    model: Model | None
    backbones: dict[Modality, Backbone]

    def size(self, modality: Modality, split: str) -> tuple[int, int]:
        """Rows of a pool, and how many numbers each has: features, and the embedding by the RUN."""
        rows = sum(shard.rows for shard in self.dataset.shards(modality, split))
        return rows, self.backbones[modality].dim + (self.model.encoders[modality].dim if self.model else 0)

    def side(self, modality: Modality, split: str) -> PoolSide:
        """All rows of a modality and split. Features come from the cache where it has them.

        Raises:
            SetClipError: the split is not there, or a row cannot be read.
        """
        backbone = self.backbones[modality]
        if self.model is not None:
            require_bands(self.dataset, modality, split, self.model.config.towers[modality].bands)
        table = frozen_features(backbone, self.dataset, modality, split)
        embeddings = None if self.model is None else _embedded(self.model, modality, table)
        return PoolSide(modality, backbone.kind, table.ids, table.features, embeddings)


def open_towers(
    dataset: Dataset | str | Path,
    *,
    run: str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    split: str | None = None,
) -> Towers:
    """The towers of a RUN or of a recipe, with their weights.

    Args:
        run: A RUN: its towers, embeddings and recipe.
        recipe: Without a RUN: what names the two towers. Default: towers that fit the kinds of the rows.
        split: What to look at to find out the kinds of the rows. Default: that of the recipe.

    Raises:
        SetClipError: a RUN and a recipe are both given, the DATASET lacks a side, or weights are missing.
    """
    dataset = open_dataset(dataset) if isinstance(dataset, str | Path) else dataset
    if run is not None and recipe is not None:
        raise UsageError(
            f"{argument('run')} and {argument('recipe')} are both given, and each names the towers",
            fix=f"leave {argument('recipe')} out: the RUN has a recipe",
        )
    found = _recipe(dataset, run, recipe, split)
    missing = [modality for modality in found.modalities() if modality not in dataset.modalities()]
    if run is not None and missing:
        raise SetClipError(
            f"{run}: reads {' and '.join(found.modalities())} rows, and {dataset.root} holds "
            f"{', '.join(dataset.modalities()) or 'nothing'}",
            fix=f"give a RUN that reads the rows of this DATASET, or add {missing[0]} rows: setclip ingest SOURCE "
            f"--modality {missing[0]} {'' if missing[0] in KINDS_OF_NAMES else '--kind KIND '}--out {dataset.root}",
        )
    for modality in missing:
        dataset.about(modality)  # says what is there, and raises
    if run is not None:
        model = load_model(Path(run))
        return Towers(dataset, found, model, {modality: model.load_backbone(modality) for modality in model.encoders})
    device = resolve_device(found.train.device, setting="train.device =")
    seen = found if split is None else _of_split(found, split)
    backbones = {
        modality: load_tower_backbone(
            seen,
            modality,
            dataset.about(modality),
            device,
            joint=found.towers[modality].joint,
            bands=tower_bands(seen, dataset, modality),
        )
        for modality in found.modalities()
    }
    return Towers(dataset, found, None, backbones)


def read_pools(
    dataset: Dataset | str | Path,
    *,
    run: str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    split: str | None = None,
    towers: Towers | None = None,
) -> Pools:
    """Reads both pools of a split. Labels are not read.

    Features come from the cache where it has them, as in training.

    Args:
        run, recipe: As `open_towers` takes them.
        split: Default: that of the recipe, which is train if it does not say.
        towers: Towers that are open already.

    Raises:
        SetClipError: a RUN and a recipe are both given, the DATASET lacks a side or the split, weights are missing,
            the pools are larger than the memory of the machine, or a row cannot be read.
    """
    towers = towers or open_towers(dataset, run=run, recipe=recipe, split=split)
    found = towers.recipe
    split = split or found.train.split
    require_memory(split, {modality: towers.size(modality, split) for modality in found.modalities()})
    left, right = (towers.side(modality, split) for modality in found.modalities())
    of_split = _of_split(found, split)
    known = pairs_in_items(towers.dataset, split, of_split)
    return Pools(
        dataset=towers.dataset,
        split=split,
        left=left,
        right=right,
        pairs=pair_rows(known.pairs, left.ids, right.ids, split=split),
        items=torch.tensor(known.items, dtype=torch.int64),
        trained_on=None if towers.model is None else _trained_on(towers.model.run, towers.dataset, found, split),
        recipe=of_split,
        run=None if towers.model is None else towers.model.run,
    )


def _of_split(recipe: Recipe, split: str) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"split": split})})


def _recipe(dataset: Dataset, run: str | Path | None, recipe: Recipe | str | Path | None, split: str | None) -> Recipe:
    if run is not None:
        folder = Path(run)
        require_file(folder, load_config(folder), RECIPE_NAME)
        return Recipe.read_back(read_toml(folder / RECIPE_NAME))
    if recipe is not None:
        return recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    chosen = recipe_for(dataset, split or "train")
    towers = ", ".join(f"{name} by {chosen.towers[name].backbone}" for name in chosen.modalities())
    note(f"note: {FALLBACK}: {towers}; another recipe names others")
    return chosen


def _embedded(model: Model, modality: Modality, table: FeatureTable) -> Tensor:
    """(n, d) float32 unit rows."""
    with torch.inference_mode():
        embeddings = torch.nn.functional.normalize(model.encoders[modality](table.features).float(), dim=1)
    if broken := unusable_rows(embeddings.numpy()):
        row, reason = next(iter(broken.items()))
        raise SetClipError(
            f"{model.run}: {len(broken)} of {len(embeddings)} {modality} rows have an embedding that {reason}, the "
            f"first {table.ids[row]!r}",
            fix="look at these rows in the source files, or align again with more pairs",
        )
    return embeddings.clone()


def _trained_on(run: Path, dataset: Dataset, recipe: Recipe, split: str) -> Tensor | None:
    if load_config(run).dataset_sha256 != dataset.identity():
        return None
    pairs = pairs_in_items(dataset, split, recipe).pairs
    if split != recipe.train.split:
        return torch.zeros(len(pairs), dtype=torch.bool)
    used = {(pair.left_id, pair.right_id) for pair in known_pairs(dataset, recipe).pairs}
    return torch.tensor([(pair.left_id, pair.right_id) in used for pair in pairs], dtype=torch.bool)
