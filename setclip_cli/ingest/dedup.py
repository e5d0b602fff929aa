"""Which records are kept, and in which split: exact repeats, taken ids, near-duplicates, drawn splits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from setclip_cli.dataset.modality import MODALITIES, Modality
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.splits import SPLIT_NAME, SplitRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from setclip_cli.ingest.near_duplicates import LookAlikes, Seen

SplitBy = Literal["auto", "id", "label", "group", "cluster"]
NearDuplicates = Literal["keep", "flag", "drop"]
DUPLICATE = "duplicate of a record already taken"
REPEATED_ID = "id already taken by a different record"
OTHER_SPLIT = "same content as a record in another split"
NEAR_DUPLICATE = "looks like an image already taken"
NO_LOSS = {DUPLICATE, REPEATED_ID, OTHER_SPLIT, NEAR_DUPLICATE}


@dataclass(frozen=True)
class Policy:
    """What one source's options say about its records."""

    rule: SplitRule
    split_by: SplitBy = "auto"
    clusters: Mapping[str, str] | None = None  # protein id -> the first id of its cluster
    keep_duplicates: bool = False
    near_duplicates: NearDuplicates = "keep"


class Admitted(NamedTuple):
    """A record that is kept, perhaps with a flag."""

    record: Record
    split: str
    fresh: bool  # no record before it had its payload
    crossing: bool  # one in another split has


@dataclass
class _Taken:
    """What is held of one modality, as far as a new record must know: some 250 bytes a row."""

    ids: set[str] = field(default_factory=set)
    split_of: dict[bytes, str] = field(default_factory=dict)  # 16 bytes of the payload's sha256 -> split
    in_group: set[bytes] = field(default_factory=set)  # the same with the group's id hashed in


class Admission:
    """Remembers what was taken; decides about each next record in turn."""

    def __init__(self, near: LookAlikes | None = None) -> None:
        self._taken: dict[Modality, _Taken] = {modality: _Taken() for modality in MODALITIES}
        self.near = near

    def recall(self, modality: Modality, rows: pa.Table) -> None:
        """Takes note of rows that are on disk already: columns id, split, sha256, and group of captions."""
        known = self._taken[modality]
        digests = [bytes.fromhex(digest)[:16] for digest in rows["sha256"].to_pylist()]
        known.ids.update(rows["id"].to_pylist())
        for digest, split in zip(digests, rows["split"].to_pylist(), strict=True):
            known.split_of.setdefault(digest, split)
        if "group" in rows.column_names:
            for digest, group in zip(digests, rows["group"].to_pylist(), strict=True):
                if group is not None:
                    known.in_group.add(_grouped(digest, group))

    def admit(self, record: Record, policy: Policy) -> Admitted | Reject:
        """Decides about one record.

        A payload is kept once; a caption once for each group, since the same words about another image are another
        fact. A drawn split never puts one content into two splits: an ungrouped repeat follows the first, and a
        caption whose group was drawn elsewhere is left out. Images that look alike are drawn together.
        """
        known = self._taken[record.modality]
        digest = bytes.fromhex(record.sha256[:32])
        earlier = known.split_of.get(digest)
        grouped = None
        if record.group is None:
            repeated = earlier is not None
        else:
            grouped = _grouped(digest, record.group)
            repeated = grouped in known.in_group
        if repeated and not policy.keep_duplicates:
            return Reject(record.id, DUPLICATE, bad=False)
        if record.id in known.ids:
            return Reject(record.id, DUPLICATE if repeated else REPEATED_ID, bad=not repeated)
        alike = self._alike(record) if self.near is not None and not repeated else None
        if alike is not None and policy.near_duplicates == "drop":
            return Reject(record.id, f"{NEAR_DUPLICATE}: {alike.id}", bad=False)
        split = policy.rule.fixed or record.split or "train"
        if policy.rule.shares:
            split = policy.rule.draw(_key(record, policy)) if alike is None else alike.split
            if earlier is not None and earlier != split:
                if record.group is not None:
                    return Reject(record.id, OTHER_SPLIT, bad=False)
                split = earlier
        elif record.split is not None and not SPLIT_NAME.fullmatch(split):
            return Reject(record.id, "split's name has other characters than letters, digits, '-' and '_'")
        known.ids.add(record.id)
        if earlier is None:
            known.split_of[digest] = split
        if grouped is not None:
            known.in_group.add(grouped)
        if record.extra and self.near is not None:
            record = self._noted(record, split, alike)
        return Admitted(record, split, earlier is None, earlier is not None and earlier != split)

    def _alike(self, record: Record) -> Seen | None:
        value = (record.extra or {}).get("perceptual_hash")
        return self.near.find(value) if self.near is not None and isinstance(value, int) else None

    def _noted(self, record: Record, split: str, alike: Seen | None) -> Record:
        """Flags a record that looks like an earlier one, and remembers one that does not."""
        value = (record.extra or {}).get("perceptual_hash")
        if alike is None and self.near is not None and isinstance(value, int):
            self.near.add(value, record.id, split)
        return record._replace(extra={**(record.extra or {}), "near_duplicate_of": alike.id if alike else None})


def _key(record: Record, policy: Policy) -> str:
    """What the split is drawn by: records with the same key share a split."""
    if policy.split_by == "id":
        return record.id
    if policy.split_by == "label":
        return record.label if record.label is not None else record.id
    key = record.group if record.group is not None else record.id
    return policy.clusters.get(key, key) if policy.clusters is not None else key


def _grouped(digest: bytes, group: str) -> bytes:
    return hashlib.blake2b(digest + group.encode(), digest_size=16).digest()
