"""Pairs from groups: which image, protein or vector a caption (or another row with a group) describes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from setclip_cli.dataset.modality import Modality, plural, singular
from setclip_cli.dataset.schemas import GROUPED
from setclip_cli.errors import SetClipError, argument
from setclip_cli.ingest import names
from setclip_cli.ingest.pair_rows import SEVERAL, Origin, Rows, crossing_splits, pair_of, unknown_id
from setclip_cli.ingest.sources.base import Reject
from setclip_cli.joins import Join, Side, check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from setclip_cli.dataset.dataset import Dataset, Pair, Shard
    from setclip_cli.ingest.names import Name


def group_pairs(dataset: Dataset) -> tuple[list[Pair | Reject], list[Join]]:
    """A pair, or the reason why there is none, for each row that has a group; and how the groups matched."""
    present = dataset.modalities()
    if not dataset.of_kind(*GROUPED) or len(present) < 2:
        raise SetClipError(
            f"{dataset.root}: pairs from groups need captions and what they describe; it has {', '.join(present)} only",
            fix=f"ingest the other modality first, then this source with {argument('pairs_from_group')}",
        )
    describing = grouped_modalities(dataset)
    if not describing:
        raise SetClipError(
            f"{dataset.root}: no caption has a group",
            fix="give each caption the id of its image, video or protein in a field 'group', or give "
            f"{argument('pairs')} FILE",
        )
    answers: list[Pair | Reject] = []
    joins = []
    for modality in describing:
        others = [other for other in present if other != modality]
        found, join = _pairs_of_groups(dataset, modality, others)
        answers += found
        joins.append(join)
    return answers, joins


def grouped_modalities(dataset: Dataset) -> list[Modality]:
    """The modalities of which any row has a group, which says what the row describes."""
    return [
        modality
        for modality in dataset.of_kind(*GROUPED)
        if any(_has_group(dataset, shard) for shard in dataset.shards(modality))
    ]


def _has_group(dataset: Dataset, shard: Shard) -> bool:
    if "group" not in dataset.columns(shard):
        return False
    lengths = pc.utf8_length(dataset.read(shard, ["group"])["group"])
    return bool(pc.any(pc.greater(lengths, 0)).as_py())


def _pairs_of_groups(
    dataset: Dataset, describing: Modality, others: Sequence[Modality]
) -> tuple[list[Pair | Reject], Join]:
    """The same for the rows of one modality."""
    captions = Rows(dataset, describing)
    groups = dict.fromkeys(row.group for _, row in captions.rows() if row.group)
    rows = {modality: Rows(dataset, modality) for modality in others}
    found = {modality: names.find(map(str, groups), rows[modality].names) for modality in rows}
    known = {group for meant in found.values() for group in meant}
    answers: list[Pair | Reject] = []
    steps: dict[str, str] = {}  # of each group that has one image or protein
    several: dict[str, str] = {}
    met: set[tuple[Modality, str]] = set()
    for modality, meant_by in found.items():
        splits = rows[modality].splits({name.id for meant in meant_by.values() for name in meant.names})
        for origin, row in captions.rows():
            if not row.group or row.group not in meant_by:
                continue
            location, meant = f"group of {row.id}", meant_by[row.group]
            name = _of_same_place(meant.names, origin, row.split, splits)
            if name is None:
                several[row.group] = meant.in_words()
                answers.append(Reject(location, f"{SEVERAL}: {row.group} ({meant.in_words()})"))
                continue
            steps[row.group] = meant.step
            met.add((modality, name.id))
            if splits[name.id] != row.split:
                answers.append(Reject(location, crossing_splits(splits[name.id], row.split)))
            else:
                answers.append(pair_of((modality, name.id), (describing, row.id), row.split))
    told = " or ".join(rows)
    answers += [
        Reject(f"group of {row.id}", unknown_id(told, row.group))
        for _, row in captions.rows()
        if row.group and row.group not in known
    ]
    lone = ((modality, row.id) for modality in rows for _, row in rows[modality].rows())
    join = Join(
        Side.of(f"groups of {plural(describing)}", map(str, groups), steps.keys()),
        Side(
            f"{told} rows",
            sum(map(len, rows.values())),
            len(met),
            next((i for m, i in lone if (m, i) not in met), None),
        ),
        ambiguous=len(several.keys() - steps.keys()),
        candidates=next((f"{group!r}: {words}" for group, words in sorted(several.items())), None),
        by=dict(sorted(Counter(steps.values()).items())),
    )
    every = (name for modality in rows for name in rows[modality].names())
    near = names.suggestion(str(join.left.example), every) if not steps else None
    fix = f"give each {singular(describing)} the id of its {told} as its group{f', such as {near!r}' if near else ''}"
    return answers, check(join, fix=fix, tried=names.TRIED)


def _of_same_place(candidates: Sequence[Name], origin: Origin, split: str, splits: Mapping[str, str]) -> Name | None:
    """The one candidate; of several the one that the captions' source says.

    That is the one of the same source; or of a source in or around the captions' folder; or in the split that was said
    for the captions.
    """
    if len(candidates) == 1:
        return candidates[0]
    folder = Path(origin.path).parent
    for near in (
        [name for name in candidates if name.source == origin.path],
        [name for name in candidates if _within(Path(name.source), folder) or _within(folder, Path(name.source))],
        [name for name in candidates if origin.states_split and splits.get(name.id) == split],
    ):
        if len(near) == 1:
            return near[0]
    return None


def _within(inner: Path, outer: Path) -> bool:
    return inner == outer or outer in inner.parents


def described(dataset: Dataset, describing: Modality, modality: Modality) -> dict[str, str | None]:
    """Id of a describing row -> id of the row that its group means; None if several could be. Others are left out.

    Args:
        describing: The modality with groups, such as captions.
        modality: The one that they describe.
    """
    captions, rows = Rows(dataset, describing), Rows(dataset, modality)
    found = names.find((row.group for _, row in captions.rows() if row.group), rows.names)
    splits = rows.splits({name.id for meant in found.values() for name in meant.names})
    means: dict[str, str | None] = {}
    for origin, row in captions.rows():
        if row.group and (meant := found.get(row.group)):
            name = _of_same_place(meant.names, origin, row.split, splits)
            means[row.id] = None if name is None else name.id
    return means


def splits_of_groups(dataset: Dataset) -> dict[str, set[str]]:
    """The splits of the captions of each group.

    Raises:
        SetClipError: the dataset has no captions, or no caption has a group.
    """
    found: dict[str, set[str]] = {}
    if not dataset.of_kind(*GROUPED):
        raise SetClipError(
            f"{dataset.root}: holds no captions, from which images could take their split",
            fix=f"ingest the captions first, or {argument('split')} train=0.8,test=0.2",
        )
    for modality in dataset.of_kind(*GROUPED):
        for _, row in Rows(dataset, modality).rows():
            if row.group:
                found.setdefault(row.group, set()).add(row.split)
    if not found:
        raise SetClipError(
            f"{dataset.root}: no caption has a group, so images cannot take their split from captions",
            fix=f"{argument('split')} train=0.8,test=0.2",
        )
    return found
