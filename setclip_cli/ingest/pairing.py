"""pairs.parquet: the few known pairs, from a file or from the captions' groups."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from setclip_cli.dataset.dataset import Dataset, Pair
from setclip_cli.dataset.modality import Modality
from setclip_cli.errors import SetClipError, argument
from setclip_cli.ingest.annotations import IdLookup, UnresolvedPair, pairs_of_groups, resolve
from setclip_cli.ingest.sources.base import Reject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class PairTable:
    """The rows of pairs.parquet.

    Attributes:
        pairs: The pairs, in the order of the file.
        origins: For dataset.json: where pairs came from.
        rejects: The new pairs that could not be added.
        changed: Whether the file must be written.
    """

    def __init__(self, pairs: Sequence[Pair], origins: Sequence[dict[str, Any]]) -> None:
        self.pairs = list(pairs)
        self.origins = list(origins)
        self.rejects: list[Reject] = []
        self.changed = False

    def reject_counts(self) -> Counter[str]:
        """Rejects by reason."""
        return Counter(reject.kind for reject in self.rejects)

    def add(self, dataset: Dataset, unresolved: Sequence[UnresolvedPair], origin: dict[str, Any]) -> None:
        """Adds pairs by their ids; a pair whose ids are not rows of one split is a reject.

        Raises:
            SetClipError: the dataset has no rows of a modality in the pairs.
        """
        self._add(_resolved(dataset, unresolved), origin)

    def add_groups(self, dataset: Dataset, *, count: int | None, seed: int | None, again: bool) -> None:
        """Adds (what a caption describes, the caption) for every caption, or for ``count`` that ``seed`` draws.

        Args:
            dataset: The rows.
            count: How many pairs to draw; None for all.
            seed: For the draw.
            again: Do so although these pairs were added before, because there are new rows.

        Raises:
            SetClipError: there are no captions, no groups, nothing they could describe, or fewer pairs than ``count``.
        """
        origin = {"from": "group", "count": count, "seed": seed}
        if origin in self.origins and not again:
            return
        found = _resolved(dataset, list(_group_pairs(dataset)))
        if count is not None:
            pairs = sorted(pair for pair in found if isinstance(pair, Pair))
            random.Random(seed).shuffle(pairs)
            if len(pairs) < count:
                shown = argument("pairs")
                raise SetClipError(
                    f"{dataset.root}: {shown} {count}: the captions' groups give only {len(pairs)} pairs",
                    fix=f"{shown} {len(pairs)} or fewer",
                )
            found = sorted(pairs[:count])
        self._add(found, origin)

    def drop_unknown(self, dataset: Dataset) -> None:
        """Drops the pairs whose rows are not there any more; they become rejects."""
        unresolved = [UnresolvedPair("pairs.parquet", *pair[:4]) for pair in self.pairs]  # type: ignore[arg-type]
        before, self.pairs = self.pairs, []
        self._add(_resolved(dataset, unresolved), None)
        self.changed = self.changed or before != self.pairs

    def _add(self, found: Iterable[Pair | Reject], origin: dict[str, Any] | None) -> None:
        pairs = dict.fromkeys(self.pairs)
        for pair in found:
            if isinstance(pair, Pair):
                pairs[pair] = None
            else:
                self.rejects.append(pair)
        self.pairs = list(pairs)
        if origin is not None:
            self.changed = True
            if origin not in self.origins:
                self.origins.append(origin)


def _resolved(dataset: Dataset, unresolved: Sequence[UnresolvedPair]) -> list[Pair | Reject]:
    needed = {side for pair in unresolved for side in (pair.left_modality, pair.right_modality)}
    ids = {modality: _ids(dataset, modality) for modality in sorted(needed)}
    return [found if isinstance(found, Pair) else Reject(*found) for found in resolve(unresolved, ids)]


def _group_pairs(dataset: Dataset) -> Iterator[UnresolvedPair]:
    present = dataset.modalities()
    if "caption" not in present or len(present) < 2:
        raise SetClipError(
            f"{dataset.root}: pairs from groups need captions and what they describe; it has {', '.join(present)} only",
            fix=f"ingest the other modality first, then this source with {argument('pairs_from_group')}",
        )
    rows = dataset.table("caption", None, ["id", "group"])
    captions = list(zip(rows["id"].to_pylist(), rows["group"].to_pylist(), strict=True))
    if not any(group for _, group in captions):
        raise SetClipError(
            f"{dataset.root}: no caption has a group",
            fix="give each caption the id of its image or protein in a field 'group', or give the pairs as a file",
        )
    others = [modality for modality in present if modality != "caption"]
    for modality in others:
        if len(others) == 1:
            yield from pairs_of_groups(captions, modality)
        else:  # proteins and images: each caption's group is an id of one of them
            ids = _ids(dataset, modality)
            found = [(identifier, group) for identifier, group in captions if group and ids.find(group)]
            yield from pairs_of_groups(found, modality)


def splits_of_groups(dataset: Dataset) -> dict[str, str]:
    """The split of the captions of each group.

    Raises:
        SetClipError: the dataset has no captions, or no caption has a group.
    """
    rows = dataset.table("caption", None, ["group", "split"])
    groups = zip(rows["group"].to_pylist(), rows["split"].to_pylist(), strict=True)
    found = {group: split for group, split in groups if group}
    if not found:
        raise SetClipError(
            f"{dataset.root}: no caption has a group, so images cannot take their split from captions",
            fix=f"{argument('split')} train=0.8,test=0.2",
        )
    return found


def _ids(dataset: Dataset, modality: Modality) -> IdLookup:
    rows = dataset.table(modality, None, ["id", "split"])
    return IdLookup(dict(zip(rows["id"].to_pylist(), rows["split"].to_pylist(), strict=True)))
