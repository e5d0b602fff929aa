"""The evaluation set: ids, labels and groups of one split, and what counts as a right answer.

Labels, groups and pairs are read here to score, never to train.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from setclip_cli.dataset.schemas import GROUPED
from setclip_cli.errors import SetClipError, argument
from setclip_cli.evaluation.relevance import relevance_by_key, relevance_by_pairs
from setclip_cli.ingest.group_pairs import described
from setclip_cli.joins import Join, check
from setclip_cli.joins import Side as JoinSide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality, RowKind
    from setclip_cli.evaluation.options import RelevanceRule
    from setclip_cli.evaluation.relevance import Relevance


@dataclass(frozen=True)
class Side:
    """The rows of one modality of the split, in the order of its shards."""

    modality: Modality
    kind: RowKind
    ids: list[str]
    labels: list[str | None]
    groups: list[str | None]  # of a caption: the item that it describes; of other rows: their own id
    payloads: list[str]  # sha256 of the text, image, residues or vector
    describes: bool = False  # whether the groups say what the rows describe, as those of captions do

    def row_of_id(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def only(self, rows: list[int]) -> Side:
        """The given rows only."""
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            groups=[self.groups[row] for row in rows],
            payloads=[self.payloads[row] for row in rows],
        )

    def first_copies(self) -> list[int]:
        """For each row the first row of the same payload."""
        first: dict[str, int] = {}
        return [first.setdefault(payload, row) for row, payload in enumerate(self.payloads)]


@dataclass(frozen=True)
class EvaluationSet:
    """Both sides and the known right answers between them.

    Attributes:
        pairs: (left row, right row): the listed pairs if ``rule`` is ``pairs``, else the pairs that groups give.
        excluded: Plain sentence -> rows, for everything that is left out.
        joins: How the two sides matched, and a task set with the labels.
    """

    split: str
    rule: RelevanceRule
    left: Side
    right: Side
    pairs: list[tuple[int, int]]
    excluded: dict[str, int]
    joins: list[Join] = field(default_factory=list)

    def directions(self) -> tuple[str, str]:
        """Names of the two directions in metric keys, such as ``image_to_caption``; that of left queries first."""
        left, right = self.left.modality, self.right.modality
        return f"{left}_to_{right}", f"{right}_to_{left}"

    def relevance(self) -> tuple[Relevance, Relevance]:
        """The right answers to left queries, and those to right queries."""
        if self.rule == "pairs":
            swapped = [(right, left) for left, right in self.pairs]
            sizes = len(self.left.ids), len(self.right.ids)
            return (
                relevance_by_pairs(self.pairs, queries=sizes[0], gallery=sizes[1]),
                relevance_by_pairs(swapped, queries=sizes[1], gallery=sizes[0]),
            )
        left, right = (
            (self.left.labels, self.right.labels) if self.rule == "label" else (self.left.groups, self.right.groups)
        )
        return relevance_by_key(left, right), relevance_by_key(right, left)

    def common_classes(self) -> list[str]:
        """The labels that both sides have, sorted."""
        return sorted({*self.left.labels} & {*self.right.labels} - {None}, key=str)  # type: ignore[arg-type]

    def first_partners(self) -> list[tuple[int, int]]:
        """(left row, its first known partner): the pairs of the paired geometry."""
        partners: dict[int, int] = {}
        for left, right in self.pairs:
            partners.setdefault(left, right)
        return sorted(partners.items())


def read_evaluation_set(
    dataset: Dataset,
    left: Modality,
    right: Modality,
    *,
    split: str,
    rule: RelevanceRule,
    without_embedding: Mapping[str, set[str]] | None = None,
) -> EvaluationSet:
    """Reads ids, labels, groups and pairs of a split.

    With ``label``, a row without a label is neither a query nor in the gallery: nothing is known about it.

    Args:
        without_embedding: Modality -> ids that have no embedding; they are left out and counted.

    Raises:
        SetClipError: the split is missing or lacks what ``rule`` needs, or a pair names a row that is not there.
    """
    missing = without_embedding or {}
    excluded: dict[str, int] = {}
    sides = read_sides(dataset, left, right, split, missing, excluded)
    if rule == "label":
        sides = [_labelled(side, dataset, split, excluded) for side in sides]
    if rule == "group":
        sides = with_rows_of_groups(dataset, sides, excluded)
    left_side, right_side = sides
    pairs = (
        _listed_pairs(dataset, left_side, right_side, split, missing)
        if rule == "pairs"
        else _group_pairs(left_side, right_side)
    )
    found = EvaluationSet(split, rule, left_side, right_side, pairs, excluded)
    if not any(len(answers.queries) for answers in found.relevance()):
        raise SetClipError(
            f"{dataset.root}: in split {split!r} no {left} and {right} have the same {rule.removesuffix('s')}"
            f"{_examples(found)}",
            fix=f"choose another {argument('relevance')} or {argument('split')}, or ingest with labels or groups that "
            "both modalities share",
        )
    if rule == "label":
        _count_one_sided_classes(found)
    found.joins.append(check(_join(found), fix=""))
    return found


def read_sides(
    dataset: Dataset,
    left: Modality,
    right: Modality,
    split: str,
    missing: Mapping[str, set[str]],
    excluded: dict[str, int],
) -> list[Side]:
    """Both sides of the split without the rows that have no embedding; these are counted in ``excluded``."""
    sides = [
        _leave_out(_read_side(dataset, modality, split), missing.get(modality, set()), excluded)
        for modality in (left, right)
    ]
    if sum(side.describes for side in sides) == 2:  # of two such sides, one without groups is described by the other
        without = [side for side in sides if not any(side.groups)]
        if len(without) == 1:
            sides = [replace(side, groups=[*side.ids], describes=False) if side in without else side for side in sides]
    return sides


def with_rows_of_groups(dataset: Dataset, sides: Sequence[Side], excluded: dict[str, int]) -> list[Side]:
    """The sides with each caption's group as the id of the row that it means; none if several could be meant."""
    captions = next((side for side in sides if side.describes), None)
    other = next((side for side in sides if not side.describes), None)
    if captions is None or other is None:
        return list(sides)
    means = described(dataset, captions.modality, other.modality)
    groups = [means.get(name, group) for name, group in zip(captions.ids, captions.groups, strict=True)]
    if several := sum(name in means and means[name] is None for name in captions.ids):
        excluded[f"{captions.modality} groups that several {other.modality} rows could be"] = several
    return [replace(side, groups=groups) if side is captions else side for side in sides]


def _join(found: EvaluationSet) -> Join:
    """How many keys of each side the other side has too."""
    left, right = _keys(found)
    names = []
    for side in (found.left, found.right):
        what = "classes" if found.rule == "label" else "groups" if side.describes else "ids"
        names.append(f"{side.modality} {what if found.rule != 'pairs' else 'rows in pairs'} of split {found.split}")
    return Join(
        JoinSide.of(names[0], left, set(right)),
        JoinSide.of(names[1], right, set(left)),
        by={found.rule: len(set(left) & set(right))},
        both=found.rule != "pairs",
    )


def _keys(found: EvaluationSet) -> tuple[list[str], list[str]]:
    if found.rule == "label":
        keys = found.left.labels, found.right.labels
    elif found.rule == "group":
        keys = found.left.groups, found.right.groups
    else:  # a pair is a key of both its rows
        return [found.left.ids[row] for row, _ in found.pairs], [found.left.ids[row] for row, _ in found.pairs]
    left, right = ([key for key in side if key is not None] for side in keys)
    return left, right


def _examples(found: EvaluationSet) -> str:
    left, right = _keys(found)
    if not left or not right:
        empty = found.left if not left else found.right
        return f"; no {empty.modality} row has one"
    return f": for example {left[0]!r} on one side, {right[0]!r} on the other"


def _read_side(dataset: Dataset, modality: Modality, split: str) -> Side:
    kind = dataset.kind(modality)
    grouped = kind in GROUPED
    rows = dataset.table(modality, split, ["id", "label", "sha256", *(["group"] if grouped else [])])
    columns = {name: rows[name].to_pylist() for name in rows.column_names}
    groups = columns["group"] if grouped else list(columns["id"])
    return Side(modality, kind, columns["id"], columns["label"], groups, columns["sha256"], grouped)


def _leave_out(side: Side, ids: set[str], excluded: dict[str, int]) -> Side:
    kept = [row for row, name in enumerate(side.ids) if name not in ids]
    if len(kept) < len(side.ids):
        excluded[f"{side.modality} rows that could not be embedded"] = len(side.ids) - len(kept)
    return side.only(kept)


def _labelled(side: Side, dataset: Dataset, split: str, excluded: dict[str, int]) -> Side:
    kept = [row for row, label in enumerate(side.labels) if label is not None]
    if not kept:
        raise SetClipError(
            f"{dataset.root}: no {side.modality} row of split {split!r} has a label",
            fix=f"ingest with --labels, or set {argument('relevance')} to group or pairs",
        )
    if len(kept) < len(side.ids):
        excluded[f"{side.modality} rows without a label"] = len(side.ids) - len(kept)
    return side.only(kept)


def _listed_pairs(
    dataset: Dataset, left: Side, right: Side, split: str, missing: Mapping[str, set[str]]
) -> list[tuple[int, int]]:
    rows: Mapping[str, dict[str, int]] = {left.modality: left.row_of_id(), right.modality: right.row_of_id()}
    found = []
    for pair in dataset.pairs(split):
        ends = {pair.left_modality: pair.left_id, pair.right_modality: pair.right_id}
        gone = any(name in missing.get(modality, ()) for modality, name in ends.items())
        if ends.keys() != rows.keys() or gone:
            continue
        for modality, name in ends.items():
            if name not in rows[modality]:
                raise SetClipError(
                    f"{dataset.root / 'pairs.parquet'}: names the {modality} {name!r}, which split {split!r} lacks",
                    fix=f"correct the pairs file and ingest it again, or choose another {argument('split')}",
                )
        found.append((rows[left.modality][ends[left.modality]], rows[right.modality][ends[right.modality]]))
    if not found:
        raise SetClipError(
            f"{dataset.root}: has no {left.modality}-{right.modality} pairs in split {split!r}",
            fix=f"ingest with --pairs or --pairs-from-group, or set {argument('relevance')} to label",
        )
    return found


def _group_pairs(left: Side, right: Side) -> list[tuple[int, int]]:
    """A caption and the row that its group names."""
    rows = {group: row for row, group in enumerate(left.groups) if group is not None}
    return [(rows[group], row) for row, group in enumerate(right.groups) if group in rows]


def _count_one_sided_classes(found: EvaluationSet) -> None:
    """Counts the rows of classes that only one side has; they stay in the gallery as wrong answers."""
    for side, other in ((found.left, found.right), (found.right, found.left)):
        known = set(other.labels)
        lone = sorted({label for label in side.labels if label not in known and label is not None})
        if lone:
            rows = sum(label in lone for label in side.labels)
            names = ", ".join(lone[:8]) + (", ..." if len(lone) > 8 else "")
            key = f"{side.modality} queries of classes that no {other.modality} row has ({names}); kept in the gallery"
            found.excluded[key] = rows
