"""pairs.parquet: the few known pairs, from a file or from the captions' groups."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli import console
from setclip_cli.dataset.dataset import LONE_ITEMS, NO_PARTNER, Dataset, Pair
from setclip_cli.dataset.modality import Modality, in_order
from setclip_cli.errors import SetClipError, argument, nearest
from setclip_cli.ingest import names
from setclip_cli.ingest.group_pairs import group_pairs
from setclip_cli.ingest.names import Found, Name
from setclip_cli.ingest.pair_rows import SEVERAL, Rows, crossing_splits, unknown_id
from setclip_cli.ingest.sources.base import Reject
from setclip_cli.joins import Join, Side, check

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from setclip_cli.ingest.annotations import LoneItem, PairFile, UnresolvedPair

_NEAREST_FOR = 5  # unknown ids of a modality, for which the nearest id is looked up: each is compared with all ids
_NEAREST_AMONG = 100_000  # ids
_REPEATED = " (it was left out as a duplicate: another row has the same content)"
WRONG = "pair was dropped as wrong"
DROPPED = "dropped"  # in the origin of pairs: what the user called wrong


class PairTable:
    """The rows of pairs.parquet.

    Attributes:
        pairs: The pairs, in the order of the file.
        origins: For dataset.json: where pairs came from.
        rejects: The new pairs that could not be added.
        joins: How the ids of the new pairs matched the rows.
        changed: Whether the file must be written.
    """

    def __init__(self, pairs: Sequence[Pair], origins: Sequence[dict[str, Any]]) -> None:
        self.pairs = list(pairs)
        self.origins = list(origins)
        self.rejects: list[Reject] = []
        self.joins: list[Join] = []
        self.changed = False

    def reject_counts(self) -> Counter[str]:
        """Rejects by reason."""
        return Counter(reject.kind for reject in self.rejects)

    def reject_examples(self) -> dict[str, str]:
        """The first reject of each reason, in words."""
        return {each.kind: f"{each.location}: {each.reason}" for each in reversed(self.rejects)}

    def has(self, origin: dict[str, Any]) -> bool:
        return any(origin.items() <= known.items() and not known.get("lost") for known in self.origins)

    def add(
        self,
        dataset: Dataset,
        file: PairFile,
        origin: dict[str, Any],
        *,
        repeats: Callable[[Modality], list[str]],
    ) -> None:
        """Adds what a file says by its ids; a pair whose ids are not rows of one split is a reject.

        Args:
            repeats: Gives the ids of rows of a modality that were left out as duplicates.

        Raises:
            SetClipError: the dataset has no rows of a modality in the pairs, or nothing in the file can be used.
        """
        name = Path(origin["from"]).name
        if not file.pairs and not file.lone:
            if file.unanswered:
                raise SetClipError(
                    f"{origin['from']}: no line has a partner filled in, of {file.unanswered:,}",
                    fix=f"write the id of the partner beside an item, or {NO_PARTNER} if it has none",
                )
            raise SetClipError(f"{origin['from']}: there are no pairs in it", fix="write one pair a line")
        wanted: dict[Modality, dict[str, None]] = {}
        for pair in file.pairs:
            wanted.setdefault(pair.left_modality, {})[pair.left_id] = None
            wanted.setdefault(pair.right_modality, {})[pair.right_id] = None
        for item in file.lone:
            wanted.setdefault(item.modality, {})[item.id] = None
        rows = {modality: Rows(dataset, modality) for modality in sorted(wanted)}
        found = {modality: names.find(wanted[modality], rows[modality].names) for modality in rows}
        joins = [
            check(
                _join(
                    f"{modality} ids of {name}", f"{modality} rows", wanted[modality], found[modality], rows[modality]
                ),
                fix=_pairs_fix(modality, wanted, found, rows),
                tried=names.TRIED,
            )
            for modality in rows
        ]
        lone = [each for item in file.lone for each in [_row_of(item, found)]]
        alone = sorted({each for each in lone if not isinstance(each, Reject)})
        origin = {**origin, "joins": [join.as_json() for join in joins]}
        resolved: list[Pair | Reject] = [*_resolved(file.pairs, found, rows)]
        resolved += [each for each in lone if isinstance(each, Reject)]
        resolved = _with_reasons(resolved, found, wanted, rows, repeats)
        self._add(resolved, {**origin, **({LONE_ITEMS: alone} if alone else {})})
        self.joins += joins

    def add_groups(self, dataset: Dataset, *, count: int | None, seed: int | None, again: bool) -> None:
        """Adds (what a row with a group describes, that row) for every such row, or for ``count`` that ``seed`` draws.

        Rows with a group are captions and other texts, and vectors.

        Args:
            dataset: The rows.
            count: How many pairs to draw; None for all.
            seed: For the draw.
            again: Do so although these pairs were added before, because there are new rows.

        Raises:
            SetClipError: there are no captions, no groups, nothing they could describe, or fewer pairs than ``count``.
        """
        origin = {"from": "group", "count": count, "seed": seed}
        if self.has(origin) and not again:
            return
        found, joins = group_pairs(dataset)
        if count is not None:
            pairs = sorted(pair for pair in found if isinstance(pair, Pair))
            random.Random(seed).shuffle(pairs)
            if len(pairs) < count:
                shown = argument("pairs")
                raise SetClipError(
                    f"{dataset.root}: {shown} {count}: the captions' groups give only {len(pairs)} pairs",
                    fix=f"{shown} {len(pairs)} or fewer",
                )
            found = [*sorted(pairs[:count])]
            drawn = [known for known in self.origins if known["from"] != DROPPED]
            if all(known["from"] == "group" and known["count"] is not None for known in drawn):
                self.pairs, self.origins = (
                    [],
                    [known for known in self.origins if known["from"] == DROPPED],
                )  # else the draws of two ingests would add up
        self._add(found, {**origin, "joins": [join.as_json() for join in joins]})
        self.joins += joins

    def draw_again(self, dataset: Dataset) -> None:
        """Takes the pairs of groups anew, after rows were removed; says so if they cannot be taken."""
        for origin in [origin for origin in self.origins if origin["from"] == "group"]:
            try:
                self.add_groups(dataset, count=origin["count"], seed=origin["seed"], again=True)
            except SetClipError as error:
                console.warning(
                    f"the pairs of groups could not be taken again after a source has changed: {error.problem}"
                )

    def drop_unknown(self, dataset: Dataset) -> None:
        """Drops the pairs whose rows are not there any more; they become rejects."""
        sides = {modality for pair in self.pairs for modality in (pair.left_modality, pair.right_modality)}
        held = dataset.modalities()
        present = {modality: Rows(dataset, modality).splits() for modality in in_order(sides) if modality in held}
        kept = []
        for pair in self.pairs:
            left = present.get(pair.left_modality, {}).get(pair.left_id)
            right = present.get(pair.right_modality, {}).get(pair.right_id)
            place = f"pairs.parquet: {pair.left_id}, {pair.right_id}"
            if left is None or right is None:
                gone = (pair.left_modality, pair.left_id) if left is None else (pair.right_modality, pair.right_id)
                self.rejects.append(Reject(place, unknown_id(*gone)))
            elif left != right:
                self.rejects.append(Reject(place, crossing_splits(left, right)))
            else:
                kept.append(pair._replace(split=left))
        if len(kept) < len(self.pairs):  # so that the files of pairs are read again when they are given again
            self.origins = [
                origin if origin["from"] == "group" else {**origin, "lost": True} for origin in self.origins
            ]
        self.changed = self.changed or kept != self.pairs
        self.pairs = kept

    def drop(self, file: PairFile, path: Path) -> int:
        """Drops known pairs that the user calls wrong, by their ids as setclip has them; they do not come back.

        Returns:
            How many were known until now.

        Raises:
            SetClipError: the file has no pair, or one that neither is known nor was dropped before.
        """
        named = [(p.left_modality, p.left_id, p.right_modality, p.right_id) for p in file.pairs]
        if not named:
            raise SetClipError(f"{path}: there are no pairs in it", fix="write one pair a line")
        before = self._dropped()
        known = {pair[:4] for pair in self.pairs}
        strange = [
            (at.location, pair) for at, pair in zip(file.pairs, named, strict=True) if pair not in known | before
        ]
        if strange:
            (location, pair), *_ = strange
            raise SetClipError(
                f"{path}: {len(strange):,} of its {len(named):,} pairs are not known pairs, the first in {location}: "
                f"{pair[1]}, {pair[3]}",
                fix="remove these lines, or write the ids as pairs.parquet has them",
            )
        kept = [pair for pair in self.pairs if pair[:4] not in set(named)]
        count = len(self.pairs) - len(kept)
        if count:
            self.pairs, self.changed = kept, True
            self.origins = [origin for origin in self.origins if DROPPED not in origin]
            self.origins.append({"from": DROPPED, DROPPED: sorted(map(list, before | set(named)))})
        return count

    def _dropped(self) -> set[tuple[str, ...]]:
        """Left and right modality and id of each pair that was dropped."""
        return {tuple(pair) for origin in self.origins for pair in origin.get(DROPPED, ())}

    def _add(self, found: Sequence[Pair | Reject], origin: dict[str, Any]) -> None:
        """Adds the pairs, but for those that were dropped. Raises SetClipError if there are rejects only."""
        dropped, told = self._dropped(), set(self.rejects)
        out = [each for each in found if isinstance(each, Pair) and each[:4] in dropped]
        wrong = [Reject(f"{pair.left_id}, {pair.right_id}", WRONG) for pair in out]
        gone = set(out)
        found = [each for each in found if each not in gone] + [each for each in wrong if each not in told]
        new = [pair for pair in found if isinstance(pair, Pair)]
        rejects = [reject for reject in found if isinstance(reject, Reject)]
        if rejects and not new and not wrong and not origin.get(LONE_ITEMS):
            reasons = Counter(reject.kind for reject in rejects).most_common(3)
            raise SetClipError(
                f"none of the {len(rejects):,} pairs can be used: "
                + "; ".join(f"{count:,} {reason}" for reason, count in reasons)
                + f" (for example {rejects[0].location}: {rejects[0].reason})",
                fix=f"both sides of a pair must be rows of one split: read both with the same {argument('split')}"
                if any(reject.reason.startswith("pair joins") for reject in rejects)
                else "correct the ids of the pairs",
            )
        self.pairs = list(dict.fromkeys([*self.pairs, *new]))
        self.rejects += rejects
        self.changed = True
        plain = {key: value for key, value in origin.items() if key not in ("joins", LONE_ITEMS)}
        self.origins = [known for known in self.origins if not plain.items() <= known.items()]
        self.origins.append(origin)


def _join(left: str, right: str, wanted: Iterable[str], found: Mapping[str, Found], rows: Rows) -> Join:
    matched = {text: meant.only for text, meant in found.items() if meant.only is not None}
    several = {text: meant.in_words() for text, meant in found.items() if meant.only is None}
    met = {name.id for name in matched.values() if name is not None}
    lone = next((row.id for _, row in rows.rows() if row.id not in met), None)
    return Join(
        Side.of(left, wanted, matched.keys()),
        Side(right, len(rows), len(met), lone),
        ambiguous=len(several),
        candidates=next((f"{text!r}: {words}" for text, words in sorted(several.items())), None),
        by=dict(sorted(Counter(found[text].step for text in matched).items())),
    )


def _pairs_fix(
    modality: Modality,
    wanted: Mapping[Modality, Collection[str]],
    found: Mapping[Modality, Mapping[str, Found]],
    rows: Mapping[Modality, Rows],
) -> str:
    """What helps if no id of a modality matches; looks for ids of the other modality only in that case."""
    if found[modality]:
        return "write each id as setclip has it"
    others = [other for other in rows if other != modality and names.find(wanted[modality], rows[other].names)]
    if others:
        return f"the {modality} ids of the file are ids of {others[0]} rows: exchange the two columns of ids"
    near = names.suggestion(next(iter(wanted[modality])), rows[modality].names())
    return f"write each id as setclip has it{f', such as {near!r}' if near else ''}"


def _resolved(
    unresolved: Sequence[UnresolvedPair], found: Mapping[Modality, Mapping[str, Found]], rows: Mapping[Modality, Rows]
) -> Iterator[Pair | Reject]:
    splits = {
        modality: rows[modality].splits({name.id for meant in found[modality].values() for name in meant.names})
        for modality in rows
    }
    for pair in unresolved:
        ends = []
        for modality, text in ((pair.left_modality, pair.left_id), (pair.right_modality, pair.right_id)):
            meant = found[modality].get(text)
            if meant is None:
                yield Reject(pair.location, unknown_id(modality, text))
            elif meant.only is None:
                yield Reject(pair.location, f"{SEVERAL}: {text} ({meant.in_words()})")
            else:
                ends.append((modality, meant.only.id, splits[modality][meant.only.id]))
                continue
            break
        if len(ends) < 2:
            continue
        (left, left_id, left_split), (right, right_id, right_split) = ends
        if left_split != right_split:
            yield Reject(pair.location, crossing_splits(left_split, right_split))
        else:
            yield Pair(left, left_id, right, right_id, left_split)


def _row_of(item: LoneItem, found: Mapping[Modality, Mapping[str, Found]]) -> tuple[Modality, str] | Reject:
    """The row that an item without a partner means."""
    meant = found[item.modality].get(item.id)
    if meant is None:
        return Reject(item.location, unknown_id(item.modality, item.id))
    if meant.only is None:
        return Reject(item.location, f"{SEVERAL}: {item.id} ({meant.in_words()})")
    return item.modality, meant.only.id


def _with_reasons(
    resolved: list[Pair | Reject],
    found: Mapping[Modality, Mapping[str, Found]],
    wanted: Mapping[Modality, Collection[str]],
    rows: Mapping[Modality, Rows],
    repeats: Callable[[Modality], list[str]],
) -> list[Pair | Reject]:
    """The same, where unknown ids of duplicates are told so, and the first few others with the id nearest to them."""
    told: dict[str, str] = {}
    for modality, texts in wanted.items():
        unknown = [text for text in texts if text not in found[modality]]
        if unknown:
            left_out = [Name(text) for text in repeats(modality)]
            repeated = names.find(unknown, partial(iter, left_out))
            told |= {unknown_id(modality, text): f"{unknown_id(modality, text)}{_REPEATED}" for text in repeated}
            unknown = [text for text in unknown if text not in repeated][:_NEAREST_FOR]
        known = (
            [row.id for _, row in rows[modality].rows()] if unknown and len(rows[modality]) <= _NEAREST_AMONG else []
        )
        told |= {unknown_id(modality, text): f"{unknown_id(modality, text)}{nearest(text, known)}" for text in unknown}
    return [
        each._replace(reason=told.get(each.reason, each.reason)) if isinstance(each, Reject) else each
        for each in resolved
    ]
