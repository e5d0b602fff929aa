"""Which known pairs a recipe trains on: the first ones of a seeded order, so a larger number only adds pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import torch

from setclip_cli.dataset.modality import plural
from setclip_cli.dataset.schemas import GROUPED
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.methods.pairs_needed import require_pairs_of
from setclip_cli.sampling import generator
from setclip_cli.training.pair_items import describing_right, groups_of, items_of, require_one_split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from setclip_cli.dataset.dataset import Dataset, Pair
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.recipe.recipe import Recipe


@dataclass(frozen=True)
class KnownPairs:
    """Known pairs, and the items that they belong to.

    Attributes:
        pairs: Each with its left side first.
        items: For each pair the number of its item. If pairs are counted by rows, each is an item of its own.
        by_item: Whether items are counted, each with all its pairs, and not single pairs.
    """

    pairs: list[Pair]
    items: list[int]
    by_item: bool

    @property
    def item_count(self) -> int | None:
        """The number of items; None if pairs are counted by rows."""
        return len(set(self.items)) if self.by_item else None


def known_pairs(dataset: Dataset, recipe: Recipe) -> KnownPairs:
    """The pairs of the recipe's split and modalities, as many as it asks for.

    Raises:
        SetClipError: more are asked for than exist, fewer than the method needs, groups that do not exist, or an item
            has pairs in several splits.
    """
    if recipe.pairs == 0:
        require_pairs_of(recipe, [])
        return KnownPairs([], [], by_item=False)
    found = pairs_in_items(dataset, recipe.train.split, recipe)
    if not found.pairs:
        left, right = recipe.modalities()
        raise SetClipError(
            f"{dataset.root}: has no {left}-{right} pairs in split {recipe.train.split!r}, "
            f"and the recipe asks for pairs = {recipe.pairs!r}",
            fix="add some with `setclip ingest --pairs FILE`, or with --pairs-from-group if captions have groups; or "
            "align without any: --set pairs=0",
        )
    available = len(set(found.items))
    wanted = _count(recipe.pairs, available)
    if wanted > available:
        left, right = recipe.modalities()
        there = f"{available:,} items with " if found.by_item else ""
        row = ", or count single pairs: --set pairs_unit=row" if found.by_item and wanted <= len(found.pairs) else ""
        raise UsageError(
            f"pairs = {recipe.pairs}: {dataset.root} has {there}{len(found.pairs):,} {left}-{right} pairs in split "
            f"{recipe.train.split!r}",
            fix=f"--set pairs={available}, or add pairs with `setclip ingest --pairs`{row}",
        )
    chosen, items = seeded_order(found.items, wanted, recipe.seed)
    pairs = [found.pairs[row] for row in chosen]
    require_pairs_of(recipe, [(pair.left_id, pair.right_id) for pair in pairs])
    return KnownPairs(pairs, items, found.by_item)


def seeded_order(items: Sequence[int], wanted: int, seed: int) -> tuple[list[int], list[int]]:
    """The first items of an order that the seed draws, so that more of them only add to fewer.

    Args:
        items: For each pair the number of its item, counted from 0.
        wanted: How many items.

    Returns:
        The places of the pairs of these items, in that order, and for each the place of its item in the order.
    """
    order = torch.randperm(len(set(items)), generator=generator(seed, "pairs", "subset"))
    place = {item: place for place, item in enumerate(order[:wanted].tolist())}
    chosen = sorted((row for row, item in enumerate(items) if item in place), key=lambda row: place[items[row]])
    return chosen, [place[items[row]] for row in chosen]


def pairs_in_items(dataset: Dataset, split: str, recipe: Recipe) -> KnownPairs:
    """All pairs of a split, in the order of the file, with their items as the recipe counts them.

    Raises:
        SetClipError: ``pairs_unit = "group"`` although nothing joins pairs, or an item has pairs in several splits.
    """
    modalities, unit = recipe.modalities(), recipe.pairs_unit
    pairs = pairs_between(dataset, split, modalities)
    single = KnownPairs(pairs, list(range(len(pairs))), by_item=False)
    if unit == "row" or not pairs:
        return single
    elsewhere = (pair for pair in pairs_between(dataset, None, modalities) if pair.split != split)
    everywhere = describing_right(dataset, [*pairs, *elsewhere])
    groups = groups_of(dataset, everywhere)
    items = items_of(everywhere, groups)
    require_one_split(everywhere, items, split, setting=f"pairs_unit = {unit!r}")
    items = items[: len(pairs)]
    if any(pair.right_id in groups for pair in everywhere[: len(pairs)]) or len(set(items)) < len(pairs):
        return KnownPairs(pairs, items, by_item=True)
    if unit == "group":
        left, right = everywhere[0].left_modality, everywhere[0].right_modality
        raise SetClipError(
            f"pairs_unit = 'group': no {right} in the {len(pairs):,} {left}-{right} pairs of split {split!r} has a "
            f"group, and no {left} is in two of them",
            fix="--set pairs_unit=row"
            + (
                f", or ingest {plural(right)} that have the id of their {left} as their group"
                if dataset.kind(right) in GROUPED
                else ""
            ),
        )
    return single


def pairs_between(dataset: Dataset, split: str | None, modalities: tuple[Modality, Modality]) -> list[Pair]:
    """All pairs of a split (of all splits when None) that join these two modalities, each with its left side first."""
    left, right = modalities
    found = dataset.pairs(split)
    turned = [pair.swapped() if pair.left_modality == right else pair for pair in found]
    return [pair for pair in turned if (pair.left_modality, pair.right_modality) == (left, right)]


def pair_rows(
    pairs: Sequence[Pair],
    left_ids: Sequence[str] | pa.ChunkedArray,
    right_ids: Sequence[str] | pa.ChunkedArray,
    *,
    split: str,
) -> Tensor:
    """(b, 2) int64: for each pair the row of its left item and the row of its right item.

    Raises:
        SetClipError: a pair names an id that the split does not have.
    """
    left = numbers_of(left_ids, (pair.left_id for pair in pairs))
    right = numbers_of(right_ids, (pair.right_id for pair in pairs))
    rows = [
        (
            _row(left, pair.left_id, pair.left_modality, split),
            _row(right, pair.right_id, pair.right_modality, split),
        )
        for pair in pairs
    ]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)


def numbers_of(ids: Sequence[str] | pa.ChunkedArray, wanted: Iterable[str]) -> dict[str, int]:
    """The row numbers of these ids; one that is not there is left out. Memory hardly grows with the rows."""
    names = list(dict.fromkeys(wanted))
    if not names:
        return {}
    column = ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([pa.array(ids, pa.string())])
    places = pc.index_in(column, value_set=pa.array(names, column.type))
    rows = pc.indices_nonzero(places.is_valid()).to_numpy()
    return {names[place]: int(row) for row, place in zip(rows, places.drop_null().to_numpy(), strict=True)}


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
