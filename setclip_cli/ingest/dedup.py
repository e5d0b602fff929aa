"""Which records are kept, and in which split: exact repeats, repeated ids, images that look alike, drawn splits."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from setclip_cli.dataset.dataset import SPLIT_NAME
from setclip_cli.dataset.modality import Modality, RowKind
from setclip_cli.ingest.known_vectors import KnownVectors, Mask, RowKeys, grouped_key
from setclip_cli.ingest.sources.base import ORIGINAL, Record, Reject, usable_id
from setclip_cli.ingest.sources.split_folders import NO_SPLIT, FileSplit
from setclip_cli.ingest.splits import SplitRule

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    import pyarrow as pa

    from setclip_cli.ingest.near_duplicates import LookAlikes, SeenImage
    from setclip_cli.ingest.options import NearDuplicates, SplitBy

DUPLICATE = "duplicate of a record already taken"
REPEATED_ID = "id already taken by a different record"
OTHER_SPLIT = "same content as a record in another split"
NEAR_DUPLICATE = "looks like an image already taken"
SAME_PIXELS = "same pixels as an earlier image after one of them was encoded again; the files differ"
BAD_SPLIT_NAME = "split's name has other characters than letters, digits, '-' and '_'"
OTHER_CASE = "split's name differs in case only from another"
LONGER_ID = "id made longer, because another row has it"
LONGER_GROUP = "group and id made longer, so that no other source has them"
ID_IN_SOURCE = "id_in_source"  # the optional column that holds the id before it was made longer
_MAX_NUMBER = 10_000
REPEATS = {DUPLICATE, OTHER_SPLIT, NEAR_DUPLICATE}  # left out, but not bad


@dataclass(frozen=True)
class KeepRules:
    """What the settings of one source say about its records."""

    rule: SplitRule
    kind: RowKind | None = None  # of the source's rows
    split_by: SplitBy = "auto"
    clusters: Mapping[str, str] | None = None  # protein id -> the first id of its cluster
    keep_duplicates: bool = False
    near_duplicates: NearDuplicates = "keep"
    sources: tuple[str, ...] = ()  # what makes a made-up id unique: ends of the source's path, the shortest first
    file_split: FileSplit = NO_SPLIT  # for records to which the source gives no split
    group_source: str | None = None  # the same for made-up groups; None for the first source of its modality


class Kept(NamedTuple):
    """A record that is kept, perhaps with a flag."""

    record: Record
    split: str
    distinct: bool  # no record before it has its content
    crossing: bool  # a record in another split has its payload
    alone: bool = False  # no record before it has its id, its content or its payload
    grouped: bytes | None = None  # what tells that its group has its content, if it has a group


@dataclass
class _KnownRows:
    """What must be known of the rows of one modality to decide about a new record: about 250 bytes a row."""

    ids: set[str] = field(default_factory=set)
    split_of: dict[bytes, str] = field(default_factory=dict)  # 16 bytes of the sha256 of the content -> split
    split_of_changed: dict[bytes, str] = field(default_factory=dict)  # the same of payloads that are not all of it
    in_group: set[bytes] = field(default_factory=set)  # the same 16 bytes hashed together with the group's id

    def know(self, payload: bytes, original: object, split: str) -> None:
        """Remembers the split of a content, and of a payload that different contents may have."""
        self.split_of.setdefault(self.content(payload, original), split)
        if isinstance(original, str):
            self.split_of_changed.setdefault(payload, split)

    def find(self, rows: RowKeys) -> Mask:
        """Of which rows the id, the content or the payload is known."""
        found = np.zeros(len(rows.ids), bool)
        for known, keys in (
            (self.ids, rows.ids),
            (self.split_of.keys(), rows.contents),
            (self.split_of.keys(), rows.payloads if rows.contents is not rows.payloads else []),
            (self.split_of_changed.keys(), rows.payloads if self.split_of_changed else []),
        ):
            if not known.isdisjoint(keys):
                found |= np.fromiter(map(known.__contains__, keys), bool, len(keys))
        return found

    def know_new(self, rows: RowKeys, splits: Sequence[str]) -> None:
        """Remembers rows of which nothing is known, and which have nothing in common with each other."""
        self.ids.update(rows.ids)
        self.split_of.update(zip(rows.contents, splits, strict=True))
        if rows.contents is not rows.payloads:
            for payload, content, split in zip(rows.payloads, rows.contents, splits, strict=True):
                if content is not payload:
                    self.split_of_changed.setdefault(payload, split)
        self.in_group.update(key for key in rows.grouped or () if key is not None)

    @staticmethod
    def content(payload: bytes, original: object) -> bytes:
        """16 bytes that tell a content from others: of the payload, unless it is only a part of the content."""
        return bytes.fromhex(original[:32]) if isinstance(original, str) else payload


KnownRows: TypeAlias = _KnownRows | KnownVectors


class Dedup:
    """Remembers the rows so far, and decides about each next record.

    Args:
        look_alikes: Remembers the images so far, if images that look alike are flagged or dropped.
    """

    def __init__(self, look_alikes: LookAlikes | None = None) -> None:
        self._rows: dict[Modality, KnownRows] = defaultdict(_KnownRows)
        self._splits: dict[str, str] = {}  # lower case -> the first spelling
        self._spellings: set[str] = set()  # an older DATASET may have several of one split
        self.look_alikes = look_alikes

    @property
    def splits(self) -> frozenset[str]:
        """The splits of all rows so far."""
        return frozenset(self._spellings)

    def vectors(self, modality: str) -> KnownVectors:
        """What is known of the rows of a modality of vectors."""
        known = self._rows.get(modality)
        if not isinstance(known, KnownVectors):
            self._rows[modality] = known = KnownVectors()
        return known

    def remember_vectors(self, modality: str, rows: pa.Table) -> None:
        """Remembers rows of vectors that are on disk already: columns id, split, sha256, group."""
        for split in rows["split"].unique().to_pylist():
            self.know_split(split)
        self.vectors(modality).remember(rows)

    def remember(self, modality: Modality, rows: pa.Table) -> None:
        """Remembers rows that are on disk already: columns id, split, sha256, group of captions, original_sha256."""
        known = self._rows[modality]
        assert isinstance(known, _KnownRows)
        digests = [bytes.fromhex(digest)[:16] for digest in rows["sha256"].to_pylist()]
        known.ids.update(rows["id"].to_pylist())
        for split in rows["split"].unique().to_pylist():
            self.know_split(split)
        originals = rows[ORIGINAL].to_pylist() if ORIGINAL in rows.column_names else [None] * len(digests)
        for digest, split, original in zip(digests, rows["split"].to_pylist(), originals, strict=True):
            known.know(digest, original, split)
        if "group" in rows.column_names:
            for digest, group in zip(digests, rows["group"].to_pylist(), strict=True):
                if group is not None:
                    known.in_group.add(grouped_key(digest, group))

    def known(self, modality: Modality, kind: RowKind | None) -> KnownRows:
        """What is known of the rows of a modality."""
        return self.vectors(modality) if kind == "vector" else self._rows[modality]

    def writes_otherwise(self, split: str) -> bool:
        """Whether the name of a new split differs in case only from another."""
        return split not in self._spellings and split.lower() in self._splits

    def know_split(self, split: str) -> None:
        """Remembers the name of a split."""
        self._spellings.add(split)
        self._splits.setdefault(split.lower(), split)

    def decide(self, record: Record, rules: KeepRules) -> Kept | Reject:
        """Decides about one record.

        A content is kept once: a payload, and what an image held before it was changed, if it was. A caption is kept
        once for each group: the same words about another image are another fact. A drawn split never puts one payload
        into two splits: a repeat without a group goes to the split of the first, and a caption is left out if its group
        is in another split. Images that look alike share a split.

        An id that another row has is a reject if the data give it. If the program made it up, it becomes longer: it
        gets the end of its source's path in front. This depends only on the rows before it.

        A split whose name differs in case only from one that is there is a reject.
        """
        short, record = record, in_own_group(record, rules)
        known = self._rows[record.modality]
        digest = bytes.fromhex(record.sha256[:32])
        original = (record.extra or {}).get(ORIGINAL)
        new = known.content(digest, original) not in known.split_of
        earlier = known.split_of.get(digest) or known.split_of_changed.get(digest)
        grouped = None
        if record.group is None:
            repeated = not new
        else:
            grouped = grouped_key(digest, record.group)
            repeated = grouped in known.in_group
        if repeated and not rules.keep_duplicates:
            return Reject(record.id, DUPLICATE, bad=False)
        identifier = record.id
        if record.id in known.ids:
            longer = _longer_id(record.id, rules.sources, known.ids) if record.made_up else None
            if longer is None:
                return Reject(record.id, DUPLICATE if repeated else REPEATED_ID, bad=not repeated)
            identifier = longer
        alike = self._alike(record) if self.look_alikes is not None and not repeated else None
        if alike is not None and rules.near_duplicates == "drop":
            return Reject(record.id, f"{NEAR_DUPLICATE}: {alike.id}", bad=False)
        by_file = rules.file_split if rules.rule.as_source and record.split is None else NO_SPLIT
        split = rules.rule.fixed or record.split or by_file.split or "train"
        if rules.rule.shares:
            split = rules.rule.draw(draw_key(short, rules)) if alike is None else alike.split
            if earlier is not None and earlier != split:
                if record.group is not None:
                    return Reject(record.id, OTHER_SPLIT, bad=False)
                split = earlier
        elif record.split is not None and not SPLIT_NAME.fullmatch(split):
            return Reject(record.id, BAD_SPLIT_NAME)
        if split not in self._spellings:
            if (other := self._splits.get(split.lower())) is not None:  # some file systems take them as one name
                return Reject(record.id, f"{OTHER_CASE}: {split!r} and {other!r}")
            self.know_split(split)
        alone = new and earlier is None and identifier == record.id
        if identifier != record.id:
            record = record._replace(
                id=identifier,
                extra={**(record.extra or {}), ID_IN_SOURCE: short.id},
                repairs=(*record.repairs, LONGER_ID),
            )
        if rules.kind in ("image", "video") and record.made_up and record.split is not None and rules.rule.as_source:
            record = record._replace(repairs=(*record.repairs, f"put into split {split}, as a folder's name says"))
        elif by_file.why:
            record = record._replace(repairs=(*record.repairs, f"put into split {split}, {by_file.why}"))
        if new and earlier is not None:
            record = record._replace(repairs=(*record.repairs, SAME_PIXELS))
        known.ids.add(record.id)
        known.know(digest, original, split)
        if grouped is not None:
            known.in_group.add(grouped)
        if "perceptual_hash" in (record.extra or {}) and self.look_alikes is not None:
            record = self._flagged(record, split, alike)
        return Kept(record, split, new, earlier is not None and earlier != split, alone, grouped)

    def _alike(self, record: Record) -> SeenImage | None:
        value = (record.extra or {}).get("perceptual_hash")
        return self.look_alikes.find(value) if self.look_alikes is not None and isinstance(value, int) else None

    def _flagged(self, record: Record, split: str, alike: SeenImage | None) -> Record:
        """Flags a record that looks like an earlier one, and remembers one that does not."""
        value = (record.extra or {}).get("perceptual_hash")
        if alike is None and self.look_alikes is not None and isinstance(value, int):
            self.look_alikes.add(value, record.id, split)
        return record._replace(extra={**(record.extra or {}), "near_duplicate_of": alike.id if alike else None})


def in_own_group(record: Record, rules: KeepRules) -> Record:
    """The record with a made-up group that no earlier source can have; an id with the group in it becomes longer too.

    Rows do not say whether their groups are made up. So this is decided by the source alone.
    """
    if not record.made_up_group or record.group is None or rules.group_source is None:
        return record
    group = joined_id(rules.group_source, record.group)
    if group == record.group or usable_id(group) is not None:
        return record
    longer = record._replace(group=group, columns=(group,))
    if record.made_up and record.id.startswith(f"{record.group}#"):
        longer = longer._replace(
            id=group + record.id.removeprefix(record.group),
            extra={**(record.extra or {}), ID_IN_SOURCE: record.id},
            repairs=(*record.repairs, LONGER_GROUP),
        )
    return longer


def draw_key(record: Record, rules: KeepRules) -> str:
    """The key that draws the split: records with the same key share a split."""
    if rules.split_by == "id":
        return record.id
    if rules.split_by == "label":
        return record.label if record.label is not None else record.id
    key = record.group if record.group is not None else record.id
    return rules.clusters.get(key, key) if rules.clusters is not None else key


def _longer_id(identifier: str, sources: Sequence[str], taken: Container[str]) -> str | None:
    """A made-up id with an end of its source's path in front of it, so that no row before it has the id."""
    numbered = (f"{identifier}~{number}" for number in range(2, _MAX_NUMBER))
    for candidate in (*(joined_id(source, identifier) for source in sources), *numbered):
        if candidate not in taken and usable_id(candidate) is None:
            return candidate
    return None


def joined_id(source: str, identifier: str) -> str:
    folder, _, name = source.rpartition("/")
    if identifier == name or identifier.startswith((f"{name}:", f"{name}#")):  # <file>:<line> names its file already
        return f"{folder}/{identifier}" if folder else identifier
    return f"{source}/{identifier}"
