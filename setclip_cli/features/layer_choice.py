"""``layer = "best"``: the pair of layers, one of each tower, whose features see the most neighbours in common.

The measure is that of mutual nearest neighbours (Huh et al. 2024, arXiv:2405.07987), over known pairs: it compares the
neighbours of an item with the neighbours of its partner.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from setclip_cli.backbones import load_backbone
from setclip_cli.console import progress
from setclip_cli.errors import UsageError
from setclip_cli.files import sealed
from setclip_cli.files.cache import cache_place, if_cache_takes_it

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset, Pair
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.dataset.schemas import ModalityInfo
    from setclip_cli.pixels.bands import BandScale
    from setclip_cli.recipe.recipe import Recipe

NEIGHBOURS = 10
PAIRS_NEEDED = 50  # five times the neighbours: with 50, a fifth of the neighbours is in common by chance
PAIRS_AT_MOST = 512


@dataclass(frozen=True)
class LayerChoice:
    """Which layers were chosen, and why.

    Attributes:
        layers: Of the left and the right tower, counted from 1.
        of: How many layers each of them has.
        similarity: Share of the nearest neighbours in common, in [0, 1].
        last_similarity: The same for both last layers (or the layer that the recipe fixes).
        pairs: Number of known pairs in the measurement; no item is in two of them.
        neighbours: Number of nearest neighbours of each item that were compared.
    """

    layers: tuple[int, int]
    of: tuple[int, int]
    similarity: float
    last_similarity: float
    pairs: int
    neighbours: int = NEIGHBOURS

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"layers": list(self.layers), "of": list(self.of)}

    def summary(self, modalities: Sequence[Modality]) -> str:
        layers = ", ".join(
            f"{modality} {layer} of {of}" for modality, layer, of in zip(modalities, self.layers, self.of, strict=True)
        )
        return (
            f"layers: {layers}; mutual {self.neighbours}-nearest-neighbour similarity {self.similarity:.3f} over "
            f"{self.pairs} known pairs (last layers {self.last_similarity:.3f}, "
            f"chance {self.neighbours / (self.pairs - 1):.3f})"
        )


def wants_best(recipe: Recipe) -> bool:
    return any(tower.layer == "best" for tower in recipe.towers.values())


def fixed_layers(recipe: Recipe) -> tuple[int, ...]:
    """The layers of the left and the right tower in a recipe without ``best``."""
    named = (recipe.towers[modality].layer for modality in recipe.modalities())
    return tuple(layer for layer in named if layer != "best")


def layer_pairs(recipe: Recipe, pairs: Sequence[Pair], items: Sequence[int]) -> list[Pair]:
    """The known pairs that layers are compared on: the first ``PAIRS_AT_MOST`` that share nothing.

    Args:
        items: For each pair the number of its item: of each item one pair is taken.

    Raises:
        SetClipError: fewer than ``PAIRS_NEEDED``.
    """
    taken: set[tuple[str, str | int]] = set()
    kept: list[Pair] = []
    for pair, item in zip(pairs, items, strict=True):
        parts: set[tuple[str, str | int]] = {("left", pair.left_id), ("right", pair.right_id), ("item", item)}
        if not parts & taken and len(kept) < PAIRS_AT_MOST:
            kept.append(pair)
            taken |= parts
    if len(kept) < PAIRS_NEEDED:
        key = next(f"towers.{modality}.layer" for modality, tower in recipe.towers.items() if tower.layer == "best")
        raise UsageError(
            f"{key} = 'best': needs {PAIRS_NEEDED} known pairs or more that share no item; there are {len(kept)}",
            fix=f"--set {key}=-1 for the last layer, or add pairs with `setclip ingest --pairs`",
        )
    return kept


def choose_layers(
    recipe: Recipe,
    dataset: Dataset,
    pairs: Sequence[Pair],
    items: Sequence[int],
    device: torch.device,
    *,
    bands: Mapping[Modality, BandScale | None] | None = None,
    cache_dir: Path | None = None,
) -> LayerChoice:
    """Compares every layer of a tower with ``layer = "best"`` with those of the other tower; a fixed layer stays.

    The choice is kept in the cache under the hash of everything it depends on.

    Args:
        pairs: The known pairs of the recipe.
        items: For each of them the number of its item.
        bands: How the bands of a tower's images are scaled.
        cache_dir: Default ``$SETCLIP_CACHE``, else ``~/.cache/setclip``.

    Raises:
        SetClipError: too few pairs, or a backbone that cannot be loaded or cut.
    """
    modalities = recipe.modalities()
    chosen = layer_pairs(recipe, pairs, items)
    ids = ([pair.left_id for pair in chosen], [pair.right_id for pair in chosen])
    scales = bands or {}
    backbones = [
        load_tower_backbone(recipe, modality, dataset.about(modality), device, bands=scales.get(modality))
        for modality in modalities
    ]
    shards = [shard.sha256 for modality in modalities for shard in dataset.shards(modality, recipe.train.split)]
    ways = [recipe.towers[modality].layer for modality in modalities]
    known = [[backbone.identity for backbone in backbones], ways, shards, ids, NEIGHBOURS]
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    path = cache_place("layers", f"{key}.json", cache_dir=cache_dir)
    if sealed.is_whole(path):
        with suppress(OSError, ValueError, TypeError, KeyError):  # an early version's file without a hash
            found = json.loads(path.read_text(encoding="utf-8"))
            return LayerChoice(**{**found, "layers": tuple(found["layers"]), "of": tuple(found["of"])})
    of = (backbones[0].layers, backbones[1].layers)
    masks = [
        _neighbours_by_layer(backbone, _items(dataset, recipe.train.split, backbone, names), every=way == "best")
        for backbone, names, way in zip(backbones, ids, ways, strict=True)
    ]
    similarity = _agreement(*masks)
    _, left, right = max(
        (float(similarity[left, right]), left, right)  # a tie goes to the later layers
        for left in range(len(similarity))
        for right in range(similarity.shape[1])
    )
    choice = LayerChoice(
        layers=(_counted(left, similarity.shape[0], of[0]), _counted(right, similarity.shape[1], of[1])),
        of=of,
        similarity=float(similarity[left, right]),
        last_similarity=float(similarity[-1, -1]),
        pairs=len(chosen),
    )
    with if_cache_takes_it(), sealed.writing(path) as temporary:
        temporary.write_text(json.dumps(choice.as_json(), indent=2, sort_keys=True), encoding="utf-8")
    return choice


def load_tower_backbone(
    recipe: Recipe,
    modality: Modality,
    info: ModalityInfo,
    device: torch.device,
    *,
    layer: int | None = None,
    joint: bool = False,
    bands: BandScale | None = None,
) -> Backbone:
    """The backbone of a tower as the recipe describes it.

    Args:
        info: What the DATASET says about the modality.
        layer: The last layer to load; None for the recipe's, which is the last of all for ``best``.
        joint: Load it as half of a joint model.
        bands: How the bands of its images are scaled; None for pictures and other rows.

    Raises:
        SetClipError: the weights are missing, or the backbone does not have the layer.
    """
    tower = recipe.towers[modality]
    if layer is None:
        layer = -1 if tower.layer == "best" else tower.layer
    return load_backbone(
        tower.backbone,
        modality=modality,
        info=info,
        weights=tower.weights,
        pooling=tower.pooling,
        layer=layer,
        joint=joint,
        bands=bands,
        device=device,
    )


def _items(dataset: Dataset, split: str, backbone: Backbone, ids: Sequence[str]) -> list[Any]:
    """The raw rows of these ids, in the order of the ids."""
    wanted: dict[str, Any] = dict.fromkeys(ids)
    for shard in dataset.shards(backbone.modality, split):
        table = dataset.read(shard, ["id", backbone.column])
        for row, name in enumerate(table["id"].to_pylist()):
            if name in wanted:
                wanted[name] = table[backbone.column][row].as_py()
    return list(wanted.values())


def _neighbours_by_layer(backbone: Backbone, items: list[Any], *, every: bool) -> Tensor:
    """(layers, n, n) `nearest_mask` of each layer, the first layer first; of the last layer only unless ``every``.

    The backbone is cut down layer by layer: do not use it afterwards.
    """
    layers = range(backbone.layers, 0 if every else backbone.layers - 1, -1)
    masks = []
    for layer in progress(layers, label=f"layers of {backbone.spec}", unit="layer"):
        backbone.cut(layer)
        masks.append(nearest_mask(backbone.encode(items).features))
    return torch.stack(masks[::-1])


def _counted(row: int, measured: int, of: int) -> int:
    """The number of the layer in a row of the table. The last row is the last layer."""
    return of - measured + 1 + row


def nearest_mask(features: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """(n, n) float32: entry i, j is 1 if row j is among the nearest others of row i by cosine, else 0."""
    unit = F.normalize(features, dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return torch.zeros_like(cosine).scatter_(1, cosine.topk(neighbours, dim=1).indices, 1.0)


def _agreement(left: Tensor, right: Tensor) -> Tensor:
    """(l, r) mean share of nearest neighbours in common, of every left with every right layer."""
    return (left.flatten(1) @ right.flatten(1).T) / left[0].sum()
