"""Which known pairs belong to one item: an image with its five captions is one item and five pairs.

Two pairs belong to one item if they have the same left side, or if their captions have the same group. This goes on
from pair to pair, so an item is a connected set. Two items may have one caption in common if that caption has no group:
a sentence that fits many images does not make one item of them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from setclip_cli.dataset.modality import plural
from setclip_cli.dataset.schemas import GROUPED
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.group_pairs import described, grouped_modalities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from setclip_cli.dataset.dataset import Dataset, Pair

Key = tuple[str, str]  # "item" and the id of a left side, or "group" and the name of a group


def describing_right(dataset: Dataset, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with the side that has groups, such as captions, on the right; as they are if both or none have."""
    grouped = grouped_modalities(dataset) if pairs else []
    turn = bool(pairs) and pairs[0].left_modality in grouped and pairs[0].right_modality not in grouped
    return [pair.swapped() for pair in pairs] if turn else list(pairs)


def groups_of(dataset: Dataset, pairs: Sequence[Pair]) -> dict[str, Key]:
    """Id of a right row -> what its group is, for the right rows in these pairs that have a group."""
    if not pairs or dataset.kind(pairs[0].right_modality) not in GROUPED:
        return {}
    left, right = pairs[0].left_modality, pairs[0].right_modality
    captions = dataset.table(right, None, ["id", "group"])
    wanted = pa.array({pair.right_id for pair in pairs}, pa.string())
    captions = captions.filter(pc.is_in(captions["id"], value_set=wanted))
    named = {
        name: group
        for name, group in zip(captions["id"].to_pylist(), captions["group"].to_pylist(), strict=True)
        if group
    }
    if all(named.get(pair.right_id, pair.left_id) == pair.left_id for pair in pairs):
        return {name: ("item", group) for name, group in named.items()}
    # A group may be another spelling of an id, and in two sources it may mean two rows: as in evaluation.
    means = described(dataset, right, left)
    found: dict[str, Key] = {}
    for name, group in named.items():
        if name not in means:
            found[name] = ("group", group)
        elif (row := means[name]) is not None:
            found[name] = ("item", row)
    return found


def items_of(pairs: Sequence[Pair], groups: Mapping[str, Key]) -> list[int]:
    """For each pair the number of its item, counted from 0 in the order of the pairs.

    Args:
        pairs: Each with its left side first.
        groups: Id of a right row, such as a caption, -> what its group is.
    """
    parent: dict[Key, Key] = {}

    def root(key: Key) -> Key:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for pair in pairs:
        if (group := groups.get(pair.right_id)) is not None:
            parent[root(group)] = root(("item", pair.left_id))
    numbers: dict[Key, int] = {}
    return [numbers.setdefault(root(("item", pair.left_id)), len(numbers)) for pair in pairs]


def require_one_split(pairs: Sequence[Pair], items: Sequence[int], split: str, *, setting: str) -> None:
    """Raises SetClipError if an item has pairs in this split and in another one.

    Args:
        pairs: Of all splits.
        setting: The key of the recipe that asks for whole items, with its value.
    """
    first: dict[int, dict[str, Pair]] = defaultdict(dict)
    for pair, item in zip(pairs, items, strict=True):
        first[item].setdefault(pair.split, pair)
    spread = [found for found in first.values() if split in found and len(found) > 1]
    if spread:
        own, other = spread[0].pop(split), next(iter(spread[0].values()))
        raise SetClipError(
            f"{setting}: {len(spread)} item{'' if len(spread) == 1 else 's'} of split {split!r} "
            f"{'has' if len(spread) == 1 else 'have'} pairs in another split too: the {plural(own.right_modality)} of "
            f"{own.left_modality} "
            f"{own.left_id!r} ({split}) and {other.left_modality} {other.left_id!r} ({other.split}) have one group",
            fix="ingest again with each group in one split, as a drawn split does it, or count single pairs: "
            "--set pairs_unit=row",
        )
