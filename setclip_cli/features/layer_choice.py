"""``layer = "best"``: the pair of layers, one a tower, that put the same pairs' items nearest to each other.

Measured by mutual nearest neighbours (Huh et al. 2024, arXiv 2405.07987) over known pairs: without pairs nothing says
which item of one side a neighbourhood of the other is to be compared with.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from setclip_cli.backbones import load_backbone
from setclip_cli.console import progress
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.cache import cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset, Pair
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.recipe.recipe import Recipe

NEIGHBOURS = 10
PAIRS_NEEDED = 50  # five times the neighbours: with fewer, chance alone gives a fifth of the neighbours in common
PAIRS_AT_MOST = 512


@dataclass(frozen=True)
class LayerChoice:
    """Which layers were chosen, and why.

    Attributes:
        layers: Of the left and the right tower, counted from 1.
        of: How many layers each of them has.
        similarity: Share of the nearest neighbours in common, in [0, 1].
        last_similarity: The same of both last layers (or the one fixed by the recipe).
        pairs: Known pairs it was measured on, no item in two of them.
        neighbours: How many nearest neighbours of each item were compared.
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
    """The layers that a recipe without ``best`` names, of the left and the right tower."""
    named = (recipe.towers[modality].layer for modality in recipe.modalities())
    return tuple(layer for layer in named if layer != "best")


def layer_pairs(recipe: Recipe, pairs: Sequence[Pair]) -> list[Pair]:
    """The known pairs that layers are compared on: the first ``PAIRS_AT_MOST`` in which no item comes up twice.

    Raises:
        SetClipError: fewer than ``PAIRS_NEEDED``.
    """
    left: set[str] = set()
    right: set[str] = set()
    kept: list[Pair] = []
    for pair in pairs:
        if pair.left_id not in left and pair.right_id not in right and len(kept) < PAIRS_AT_MOST:
            kept.append(pair)
            left.add(pair.left_id)
            right.add(pair.right_id)
    if len(kept) < PAIRS_NEEDED:
        key = next(f"towers.{modality}.layer" for modality, tower in recipe.towers.items() if tower.layer == "best")
        raise SetClipError(
            f"{key} = 'best': is measured on {PAIRS_NEEDED} known pairs or more, each of other items; there are "
            f"{len(kept)}",
            fix=f"--set {key}=-1 for the last layer, or add pairs with `setclip ingest --pairs`",
            exit_code=ExitCode.USAGE,
        )
    return kept


def choose_layers(
    recipe: Recipe,
    dataset: Dataset,
    pairs: Sequence[Pair],
    device: torch.device,
    *,
    cache_dir: Path | None = None,
) -> LayerChoice:
    """Measures every pair of layers of the towers with ``layer = "best"``; a fixed layer stays.

    The choice is kept in the cache under the hash of everything it depends on.

    Args:
        pairs: The known pairs of the recipe.
        cache_dir: Default ``$SETCLIP_CACHE``, else ``~/.cache/setclip``.

    Raises:
        SetClipError: too few pairs, or a backbone that cannot be loaded or cut.
    """
    modalities = recipe.modalities()
    chosen = layer_pairs(recipe, pairs)
    ids = ([pair.left_id for pair in chosen], [pair.right_id for pair in chosen])
    backbones = [_whole(recipe, modality, device) for modality in modalities]
    shards = [shard.sha256 for modality in modalities for shard in dataset.shards(modality, recipe.train.split)]
    ways = [recipe.towers[modality].layer for modality in modalities]
    known = [[backbone.identity for backbone in backbones], ways, shards, ids, NEIGHBOURS]
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    path = (cache_dir or cache_folder()) / "layers" / f"{key}.json"
    if path.exists():
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
    atomic.write_json(path, choice.as_json())
    return choice


def _whole(recipe: Recipe, modality: Modality, device: torch.device) -> Backbone:
    """The tower's backbone up to its fixed layer, or with all of them where the best is looked for."""
    tower = recipe.towers[modality]
    layer = -1 if tower.layer == "best" else tower.layer
    return load_backbone(
        tower.backbone, modality=modality, weights=tower.weights, pooling=tower.pooling, layer=layer, device=device
    )


def _items(dataset: Dataset, split: str, backbone: Backbone, ids: Sequence[str]) -> list[Any]:
    """The raw items of these ids, in their order."""
    wanted: dict[str, Any] = dict.fromkeys(ids)
    for shard in dataset.shards(backbone.modality, split):
        table = dataset.read_verified(shard, ["id", backbone.column])
        for row, name in enumerate(table["id"].to_pylist()):
            if name in wanted:
                wanted[name] = table[backbone.column][row].as_py()
    return list(wanted.values())


def _neighbours_by_layer(backbone: Backbone, items: list[Any], *, every: bool) -> Tensor:
    """(layers, n, n) who is among whose nearest, the first layer first; the last alone unless ``every``.

    The backbone is cut down layer by layer and of no further use.
    """
    layers = range(backbone.layers, 0 if every else backbone.layers - 1, -1)
    masks = []
    for layer in progress(layers, label=f"layers of {backbone.spec}", unit="layer"):
        backbone.cut(layer)
        masks.append(nearest_mask(backbone.encode(items).features))
    return torch.stack(masks[::-1])


def _counted(row: int, measured: int, of: int) -> int:
    """The layer of a row of the table, whose last row is the last layer."""
    return of - measured + 1 + row


def nearest_mask(features: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """(n, n) float32: 1 where the column's row is among the row's nearest others by cosine, else 0."""
    unit = F.normalize(features, dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return torch.zeros_like(cosine).scatter_(1, cosine.topk(neighbours, dim=1).indices, 1.0)


def _agreement(left: Tensor, right: Tensor) -> Tensor:
    """(l, r) mean share of nearest neighbours in common, of every left with every right layer."""
    return (left.flatten(1) @ right.flatten(1).T) / left[0].sum()
