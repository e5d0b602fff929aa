"""What the settings of a source add to its records before it is decided which records are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError, argument
from setclip_cli.ingest.near_duplicates import perceptual_hash
from setclip_cli.ingest.pairing import splits_of_groups
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.threads import ordered_map
from setclip_cli.ingest.splits import SplitRule, parse_split

if TYPE_CHECKING:
    from collections.abc import Iterator

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.ingest.annotations import Labels
    from setclip_cli.ingest.options import SourceSettings
    from setclip_cli.ingest.sources.base import Source


def prepared(
    records: Iterator[Record | Reject], settings: SourceSettings, labels: Labels, dataset: Dataset, workers: int
) -> Iterator[Record | Reject]:
    """The records with perceptual hashes, labels and the splits of captions, if the settings ask for them.

    Args:
        records: What the source yields.
        settings: Those of the source.
        labels: Those that the user gave.
        dataset: All rows so far; its captions can say the split of an image.
        workers: Threads that hash images.

    Raises:
        SetClipError: splits must come from captions, and there are none.
    """
    if settings.near_duplicates != "keep":
        records = ordered_map(_with_hash, records, workers)
    if len(labels):
        records = (each._replace(label=labels.of(each)) if isinstance(each, Record) else each for each in records)
    if parse_split(settings.split).as_captions:
        records = _with_caption_splits(records, splits_of_groups(dataset))
    return records


def _with_hash(record: Record | Reject) -> Record | Reject:
    """The record with the perceptual hash of its image as an optional column."""
    if not isinstance(record, Record) or not isinstance(record.payload, bytes):
        return record
    return record._replace(extra={**(record.extra or {}), "perceptual_hash": perceptual_hash(record.payload)})


def _with_caption_splits(records: Iterator[Record | Reject], splits: dict[str, str]) -> Iterator[Record | Reject]:
    """Each record with the split of the captions whose group is its id, or the last part of its id's path."""
    for record in records:
        if isinstance(record, Record):
            yield record._replace(split=splits.get(record.id) or splits.get(record.id.rpartition("/")[2]))
        else:
            yield record


def clusters_of(source: Source, rule: SplitRule, settings: SourceSettings) -> tuple[dict[str, str] | None, str | None]:
    """(protein id -> first id of its cluster, how they were found), if the split is drawn by clusters."""
    if settings.split_by != "cluster" or not rule.drawn:
        return None, None
    if settings.modality != "protein":
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
    return cluster_sequences(proteins)
