"""pairs.parquet: the few known pairs, stated by a user or by the captions' groups."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from setclip_cli.dataset.dataset import Dataset, Pair
from setclip_cli.dataset.modality import Modality
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.annotations import Known, StatedPair, pairs_of_groups, resolve
from setclip_cli.ingest.sources.base import Reject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Pairing:
    """The pairs of a DATASET, and where each lot of them came from."""

    def __init__(self, pairs: Sequence[Pair], origins: Sequence[dict[str, Any]]) -> None:
        self.pairs = list(pairs)
        self.origins = list(origins)
        self.rejects: list[Reject] = []
        self.changed = False
        self.recheck = False  # rows have gone since the pairs were made

    def knows(self, origin: dict[str, Any]) -> bool:
        return origin in self.origins

    def add(self, dataset: Dataset, stated: Sequence[StatedPair], origin: dict[str, Any]) -> None:
        """Resolves the stated pairs; those that cannot stand become rejects.

        Raises:
            SetClipError: the dataset has no rows of a modality that a pair names.
        """
        self._join(_resolved(dataset, stated), origin)

    def add_groups(self, dataset: Dataset, origin: dict[str, Any]) -> None:
        """Adds (what a caption describes, the caption) for every caption, or for ``origin["count"]`` drawn ones.

        Raises:
            SetClipError: no captions, no groups, or nothing they could describe.
        """
        found = _resolved(dataset, list(_group_pairs(dataset)))
        if origin["count"] is not None:
            pairs = sorted(pair for pair in found if isinstance(pair, Pair))
            random.Random(origin["seed"]).shuffle(pairs)
            if len(pairs) < origin["count"]:
                raise SetClipError(
                    f"{dataset.root}: --pairs {origin['count']}: the captions' groups state only {len(pairs)} pairs",
                    fix=f"--pairs {len(pairs)} or fewer",
                )
            found = sorted(pairs[: origin["count"]])
        self._join(found, origin)

    def drop_unknown(self, dataset: Dataset) -> None:
        """Drops, and lists as rejects, the pairs whose rows have gone."""
        stated = [StatedPair("pairs.parquet", *pair[:4]) for pair in self.pairs]  # type: ignore[arg-type]
        before, self.pairs = self.pairs, []
        self._join(_resolved(dataset, stated), None)
        self.changed = self.changed or before != self.pairs

    def _join(self, found: Iterable[Pair | Reject], origin: dict[str, Any] | None) -> None:
        joined = dict.fromkeys(self.pairs)
        for pair in found:
            if isinstance(pair, Pair):
                joined[pair] = None
            else:
                self.rejects.append(pair)
        self.pairs = list(joined)
        if origin is not None:
            self.changed = True
            if origin not in self.origins:
                self.origins.append(origin)


def _resolved(dataset: Dataset, stated: Sequence[StatedPair]) -> list[Pair | Reject]:
    needed = {side for pair in stated for side in (pair.left_modality, pair.right_modality)}
    known = {modality: _known(dataset, modality) for modality in sorted(needed)}
    return [found if isinstance(found, Pair) else Reject(*found) for found in resolve(stated, known)]


def _group_pairs(dataset: Dataset) -> Iterator[StatedPair]:
    present = dataset.modalities()
    if "caption" not in present or len(present) < 2:
        raise SetClipError(
            f"{dataset.root}: pairs from groups need captions and what they describe, has {', '.join(present)}",
            fix="ingest the other modality first, then this source with --pairs-from-group",
        )
    rows = dataset.table("caption", None, ["id", "group"])
    captions = list(zip(rows["id"].to_pylist(), rows["group"].to_pylist(), strict=True))
    if not any(group for _, group in captions):
        raise SetClipError(f"{dataset.root}: no caption has a group", fix="give the captions a 'group' field")
    others = [modality for modality in present if modality != "caption"]
    for modality in others:
        if len(others) == 1:
            yield from pairs_of_groups(captions, modality)
        else:  # proteins and images: each caption's group is an id of one of them
            known = _known(dataset, modality)
            mine = [(identifier, group) for identifier, group in captions if group and known.find(group)]
            yield from pairs_of_groups(mine, modality)


def splits_of_groups(dataset: Dataset) -> dict[str, str]:
    """The split of the captions of each group.

    Raises:
        SetClipError: the dataset has no captions, or none with a group.
    """
    rows = dataset.table("caption", None, ["group", "split"])
    groups = zip(rows["group"].to_pylist(), rows["split"].to_pylist(), strict=True)
    found = {group: split for group, split in groups if group}
    if not found:
        raise SetClipError(f"{dataset.root}: no caption has a group", fix="--split train=0.8,test=0.2")
    return found


def _known(dataset: Dataset, modality: Modality) -> Known:
    rows = dataset.table(modality, None, ["id", "split"])
    return Known(dict(zip(rows["id"].to_pylist(), rows["split"].to_pylist(), strict=True)))
