"""The rows a report is about: ids, labels and groups of one split, and what counts as a match between them.

Labels, groups and pairs are read here to score, never to train.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from setclip_cli.errors import ExitCode, SetClipError, nearest
from setclip_cli.evaluation import relevance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality

Matching = Literal["label", "group", "pairs"]


@dataclass(frozen=True)
class Side:
    """One modality of the split, in the order of its shards."""

    modality: Modality
    ids: list[str]
    labels: list[str | None]
    groups: list[str | None]  # of a caption: the item it describes; elsewhere the row's own id
    payloads: list[str]  # sha256 of the text, image or residues

    def at(self) -> dict[str, int]:
        """Row of each id."""
        return {name: row for row, name in enumerate(self.ids)}

    def keep(self, rows: list[int]) -> Side:
        """The same with the given rows only."""
        return Side(
            self.modality,
            [self.ids[row] for row in rows],
            [self.labels[row] for row in rows],
            [self.groups[row] for row in rows],
            [self.payloads[row] for row in rows],
        )

    def first_alike(self) -> list[int]:
        """For each row the first row of the same payload, so that repeated captions can be embedded alike."""
        first: dict[str, int] = {}
        return [first.setdefault(payload, row) for row, payload in enumerate(self.payloads)]


@dataclass(frozen=True)
class TestSet:
    """Both sides and the known answers between them.

    Attributes:
        pairs: (left row, right row) where ``matching`` is ``pairs``, else those that groups give; one row each way.
        excluded: Plain sentence -> rows, for everything left out.
    """

    __test__ = False  # pytest: not a test class

    split: str
    matching: Matching
    left: Side
    right: Side
    pairs: list[tuple[int, int]]
    excluded: dict[str, int]

    def relevance(self) -> tuple[relevance.Relevance, relevance.Relevance]:
        """What answers left queries, and what answers right ones."""
        if self.matching == "pairs":
            swapped = [(right, left) for left, right in self.pairs]
            sizes = len(self.left.ids), len(self.right.ids)
            return (
                relevance.by_pairs(self.pairs, queries=sizes[0], gallery=sizes[1]),
                relevance.by_pairs(swapped, queries=sizes[1], gallery=sizes[0]),
            )
        left, right = (
            (self.left.labels, self.right.labels) if self.matching == "label" else (self.left.groups, self.right.groups)
        )
        return relevance.by_key(left, right), relevance.by_key(right, left)

    def classes(self) -> list[str]:
        """The labels that both sides have, sorted."""
        return sorted({*self.left.labels} & {*self.right.labels} - {None}, key=str)  # type: ignore[arg-type]

    def one_to_one(self) -> list[tuple[int, int]]:
        """For each left row with a known partner, its first one: the pairs that paired geometry is taken over."""
        partners: dict[int, int] = {}
        for left, right in self.pairs:
            partners.setdefault(left, right)
        return sorted(partners.items())


def read_test_set(
    dataset: Dataset,
    left: Modality,
    right: Modality,
    *,
    split: str = "test",
    matching: str = "label",
    absent: Mapping[str, set[str]] | None = None,
) -> TestSet:
    """Reads ids, labels, groups and pairs of a split.

    With ``label``, rows without a label are left out of queries and gallery alike: nothing is known about them.

    Args:
        absent: Modality -> ids that have no embedding; left out and counted.

    Raises:
        SetClipError: the split is missing or lacks what the matching needs, or a pair names a row that is not there.
    """
    if matching not in get_args(Matching):
        raise SetClipError(
            f"--relevance {matching!r}: is not known{nearest(matching, get_args(Matching))}",
            fix=f"choose one of: {', '.join(get_args(Matching))}",
            exit_code=ExitCode.USAGE,
        )
    excluded: dict[str, int] = {}
    sides = [
        _without(_read_side(dataset, modality, split), (absent or {}).get(modality, set()), excluded)
        for modality in (left, right)
    ]
    if matching == "label":
        for place, side in enumerate(sides):
            labelled = [row for row, label in enumerate(side.labels) if label is not None]
            if not labelled:
                raise SetClipError(
                    f"{dataset.root}: no {side.modality} row of split {split!r} has a label",
                    fix="ingest with --labels, or evaluate with --relevance group or pairs",
                )
            if len(labelled) < len(side.ids):
                excluded[f"{side.modality} rows without a label"] = len(side.ids) - len(labelled)
            sides[place] = side.keep(labelled)
    first, second = sides
    pairs = (
        _listed_pairs(dataset, first, second, split, absent or {})
        if matching == "pairs"
        else _group_pairs(first, second)
    )
    found = TestSet(split, matching, first, second, pairs, excluded)  # type: ignore[arg-type]
    if not any(len(answers.queries) for answers in found.relevance()):
        raise SetClipError(
            f"{dataset.root}: in split {split!r} no {left} and {right} have the same {matching.removesuffix('s')}",
            fix="evaluate with another --relevance or --split, or ingest with labels or groups that agree",
        )
    _count_lone_classes(found)
    return found


def _read_side(dataset: Dataset, modality: Modality, split: str) -> Side:
    grouped = modality == "caption"
    rows = dataset.table(modality, split, ["id", "label", "sha256", *(["group"] if grouped else [])])
    columns = {name: rows[name].to_pylist() for name in rows.column_names}
    groups = columns["group"] if grouped else list(columns["id"])
    return Side(modality, columns["id"], columns["label"], groups, columns["sha256"])


def _without(side: Side, absent: set[str], excluded: dict[str, int]) -> Side:
    kept = [row for row, name in enumerate(side.ids) if name not in absent]
    if len(kept) < len(side.ids):
        excluded[f"{side.modality} rows that could not be embedded"] = len(side.ids) - len(kept)
    return side.keep(kept)


def _listed_pairs(
    dataset: Dataset, left: Side, right: Side, split: str, absent: Mapping[str, set[str]]
) -> list[tuple[int, int]]:
    rows: Mapping[str, dict[str, int]] = {left.modality: left.at(), right.modality: right.at()}
    found = []
    for pair in dataset.pairs(split):
        ends = {pair.left_modality: pair.left_id, pair.right_modality: pair.right_id}
        gone = any(name in absent.get(modality, ()) for modality, name in ends.items())
        if ends.keys() != rows.keys() or gone:
            continue
        for modality, name in ends.items():
            if name not in rows[modality]:
                raise SetClipError(
                    f"{dataset.root / 'pairs.parquet'}: names the {modality} {name!r}, which split {split!r} lacks",
                    fix="correct the pairs file and ingest it again, or evaluate another --split",
                )
        found.append((rows[left.modality][ends[left.modality]], rows[right.modality][ends[right.modality]]))
    if not found:
        raise SetClipError(
            f"{dataset.root}: has no {left.modality}-{right.modality} pairs in split {split!r}",
            fix="ingest with --pairs or --pairs-from group, or evaluate with --relevance label",
        )
    return found


def _group_pairs(left: Side, right: Side) -> list[tuple[int, int]]:
    """Pairs that groups tell of: a caption and the row its group names."""
    rows = {group: row for row, group in enumerate(left.groups) if group is not None}
    return [(rows[group], row) for row, group in enumerate(right.groups) if group in rows]


def _count_lone_classes(test: TestSet) -> None:
    """Notes the classes that one side has and the other lacks; their rows stay in the gallery as wrong answers."""
    if test.matching != "label":
        return
    for side, other in ((test.left, test.right), (test.right, test.left)):
        known = set(other.labels)
        lone = sorted({label for label in side.labels if label not in known and label is not None})
        if lone:
            rows = sum(label in lone for label in side.labels)
            names = ", ".join(lone[:8]) + (", ..." if len(lone) > 8 else "")
            key = f"{side.modality} queries of classes that no {other.modality} row has ({names}); kept in the gallery"
            test.excluded[key] = rows
