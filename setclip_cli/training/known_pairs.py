"""Which known pairs a recipe trains on: the first ones of a seeded order, so a larger number only adds pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.methods.pairs_needed import require_pairs
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from setclip_cli.dataset.dataset import Dataset, Pair
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.recipe.recipe import Recipe


def known_pairs(dataset: Dataset, recipe: Recipe) -> list[Pair]:
    """The pairs of the recipe's split and modalities, as many as it asks for, each with its left side first.

    Raises:
        SetClipError: more pairs are asked for than exist, or fewer than the method needs.
    """
    left, right = recipe.modalities()
    found = pairs_between(dataset, recipe.train.split, (left, right))
    wanted = _count(recipe.pairs, len(found))
    if wanted > len(found):
        raise UsageError(
            f"pairs = {recipe.pairs}: {dataset.root} has {len(found)} {left}-{right} pairs in split "
            f"{recipe.train.split!r}",
            fix=f"--set pairs={len(found)}, or add pairs with `setclip ingest --pairs`",
        )
    if not wanted and recipe.pairs != 0:
        raise SetClipError(
            f"{dataset.root}: has no {left}-{right} pairs in split {recipe.train.split!r}, "
            f"and the recipe asks for pairs = {recipe.pairs!r}",
            fix="add a few with `setclip ingest --pairs`, or align without any: --set pairs=0",
        )
    order = torch.randperm(len(found), generator=generator(recipe.seed, "pairs", "subset"))
    chosen = [found[index] for index in order[:wanted].tolist()]
    require_pairs(recipe.method, [(pair.left_id, pair.right_id) for pair in chosen])
    return chosen


def pairs_between(dataset: Dataset, split: str, modalities: tuple[Modality, Modality]) -> list[Pair]:
    """All pairs of a split that join these two modalities, each with its left side first."""
    left, right = modalities
    found = dataset.pairs(split)
    turned = [pair.swapped() if pair.left_modality == right else pair for pair in found]
    return [pair for pair in turned if (pair.left_modality, pair.right_modality) == (left, right)]


def pair_rows(pairs: Sequence[Pair], left_ids: Sequence[str], right_ids: Sequence[str], *, split: str) -> Tensor:
    """(b, 2) int64: for each pair the row of its left item and the row of its right item.

    Raises:
        SetClipError: a pair names an id that the split does not have.
    """
    left = {name: row for row, name in enumerate(left_ids)}
    right = {name: row for row, name in enumerate(right_ids)}
    rows = [
        (
            _row(left, pair.left_id, pair.left_modality, split),
            _row(right, pair.right_id, pair.right_modality, split),
        )
        for pair in pairs
    ]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)


def _count(wanted: str | int | float, available: int) -> int:
    if isinstance(wanted, str):  # "all"
        return available
    return wanted if isinstance(wanted, int) else max(1, round(wanted * available)) if available else 0


def _row(rows: Mapping[str, int], name: str, modality: str, split: str) -> int:
    if name not in rows:
        raise SetClipError(
            f"pairs.parquet: names the {modality} {name!r}, which split {split!r} does not have",
            fix="correct the pairs file and ingest again; both items of a training pair must be in the training split",
        )
    return rows[name]
