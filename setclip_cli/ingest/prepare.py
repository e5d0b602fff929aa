"""What the settings of a source add to its records before it is decided which records are kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from setclip_cli.dataset.modality import NAMES_OF_KINDS
from setclip_cli.errors import SetClipError, argument
from setclip_cli.ingest import names
from setclip_cli.ingest.group_pairs import splits_of_groups
from setclip_cli.ingest.labels import offered, offered_by
from setclip_cli.ingest.near_duplicates import perceptual_hash
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.threads import ordered_map
from setclip_cli.joins import Join, Side, check
from setclip_cli.places import named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.ingest.labels import Labels
    from setclip_cli.ingest.names import Name
    from setclip_cli.ingest.options import SourceSettings
    from setclip_cli.ingest.sources.base import Source
    from setclip_cli.ingest.sources.vectors.rows import Rows
    from setclip_cli.ingest.splits import SplitRule


def prepared(
    records: Iterator[Record | Reject],
    source: Source,
    settings: SourceSettings,
    labels: Labels,
    splits: CaptionSplits | None,
    workers: int,
) -> Iterator[Record | Reject]:
    """The records with perceptual hashes, labels and the splits of captions, if the settings ask for them.

    Args:
        records: What the source yields.
        source: Where they come from.
        settings: Those of the source.
        labels: Those that the user gave.
        splits: The splits of the captions, if these decide.
        workers: Threads that hash images.
    """
    path, name, read_as = named(source.path.resolve()), settings.modality, NAMES_OF_KINDS[settings.row_kind]
    if name is not None and name != read_as:  # a reader knows the kind of its rows, and not their name
        records = (
            each._replace(modality=name) if isinstance(each, Record) and each.modality == read_as else each
            for each in records
        )
    if settings.near_duplicates != "keep":
        records = ordered_map(_with_hash, records, workers)
    if len(labels):
        records = (each._replace(label=labels.of(each, path)) if isinstance(each, Record) else each for each in records)
    if splits is not None:
        records = (splits.put(each, path) if isinstance(each, Record) else each for each in records)
    return records


def prepared_rows(
    blocks: Iterator[Rows], source: Source, labels: Labels, splits: CaptionSplits | None
) -> Iterator[Rows]:
    """The same for blocks of vectors."""
    path = named(source.path.resolve())
    for rows in blocks:
        found = rows
        if len(labels):
            given = [labels.of(rows.without_vector(row), path) for row in range(len(rows))]
            found = replace(found, labels=given)
        if splits is not None:
            put = [splits.put(rows.without_vector(row), path) for row in range(len(rows))]
            why = {row: each.reason for row, each in enumerate(put) if isinstance(each, Reject)}
            of_captions = [None if isinstance(each, Reject) else each.split for each in put]
            found = replace(found, splits=of_captions, reasons={**why, **rows.reasons})
        yield found


def _with_hash(record: Record | Reject) -> Record | Reject:
    """The record with the perceptual hash of its image as an optional column."""
    if not isinstance(record, Record) or not isinstance(record.payload, bytes):
        return record
    return record._replace(extra={**(record.extra or {}), "perceptual_hash": perceptual_hash(record.payload)})


class CaptionSplits:
    """The splits of the captions, for the images or proteins that they describe.

    Attributes:
        join: How the groups of the captions matched the records of the source.

    Raises:
        SetClipError: there are no captions, no groups, or no group matches a record.
    """

    def __init__(self, source: Source, dataset: Dataset) -> None:
        groups = splits_of_groups(dataset)
        every = list(dict.fromkeys(each.own for each in offered(source)))
        found = names.find(groups, lambda: every)
        self._splits: dict[Name, set[str]] = {}
        for group, meant in found.items():
            if meant.only is not None:
                self._splits.setdefault(meant.only, set()).update(groups[group])
        several = {group: meant.in_words() for group, meant in found.items() if meant.only is None}
        lone = next((name.id for name in every if name not in self._splits), None)
        join = Join(
            Side.of("groups of captions", groups, found.keys() - several.keys()),
            Side(f"records of {source.path.name}", len(every), len(self._splits), lone),
            ambiguous=len(several),
            candidates=next((f"{group!r}: {words}" for group, words in sorted(several.items())), None),
            by=dict(sorted(Counter(found[group].step for group in found.keys() - several.keys()).items())),
            both=True,
        )
        fix = f"give each caption the id of its image as its group, or take another {argument('split')}"
        self.join = check(join, fix=fix, tried=names.TRIED)

    def put(self, record: Record, source: str) -> Record | Reject:
        """The record in the split of its captions; a reject if they are in several splits."""
        splits = self._splits.get(offered_by(record, source).own, set())
        if len(splits) > 1:
            return Reject(record.id, f"its captions are in several splits: {', '.join(sorted(splits))}")
        return record._replace(split=next(iter(splits), record.split))


def clusters_of(
    source: Source, rule: SplitRule, settings: SourceSettings, *, work: Path
) -> tuple[dict[str, str] | None, str | None]:
    """(protein id -> first id of its cluster, how they were found), if the split is drawn by clusters.

    Args:
        work: The work folder of the ingest.
    """
    if settings.split_by != "cluster" or not rule.drawn:
        return None, None
    if settings.row_kind != "protein":
        raise SetClipError(
            f"{argument('split_by')} cluster: {source.path} holds {settings.modality} rows, not proteins",
            fix=f"{argument('split_by')} group",
        )
    from setclip_cli.ingest.protein_clusters import cluster_sequences

    proteins = (
        (record.id, record.payload)
        for record in source.records(0, 1)
        if isinstance(record, Record) and isinstance(record.payload, str) and record.modality == "protein"
    )
    return cluster_sequences(proteins, work=work)
