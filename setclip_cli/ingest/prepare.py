"""What a source's options add to its records before it is decided which are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.near_duplicates import perceptual_hash
from setclip_cli.ingest.pairing import splits_of_groups
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.image import ordered_map
from setclip_cli.ingest.splits import SplitRule, parse_split

if TYPE_CHECKING:
    from collections.abc import Iterator

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.ingest.annotations import Labels
    from setclip_cli.ingest.options import Options
    from setclip_cli.ingest.sources.base import Source


def prepared(
    items: Iterator[Record | Reject], options: Options, labels: Labels, written: Dataset, workers: int
) -> Iterator[Record | Reject]:
    """The items with perceptual hashes, labels and the splits of captions, as far as the options ask for them.

    Args:
        items: What the source yields.
        options: Of the source.
        labels: Those the user gave.
        written: All rows so far, of which the captions may say an image's split.
        workers: Threads that hash images.

    Raises:
        SetClipError: splits are to come from captions and there are none.
    """
    if options.near_duplicates != "keep":
        items = ordered_map(_with_hash, items, workers)
    if len(labels):
        items = (item._replace(label=labels.of(item)) if isinstance(item, Record) else item for item in items)
    if parse_split(options.split).as_captions:
        items = _with_caption_splits(items, splits_of_groups(written))
    return items


def _with_hash(item: Record | Reject) -> Record | Reject:
    """The record with its image's perceptual hash among its optional columns."""
    if not isinstance(item, Record) or not isinstance(item.payload, bytes):
        return item
    return item._replace(extra={**(item.extra or {}), "perceptual_hash": perceptual_hash(item.payload)})


def _with_caption_splits(items: Iterator[Record | Reject], splits: dict[str, str]) -> Iterator[Record | Reject]:
    """Each record with the split of the captions that name it, by its whole id or the last part of its path."""
    for item in items:
        if isinstance(item, Record):
            yield item._replace(split=splits.get(item.id) or splits.get(item.id.rpartition("/")[2]))
        else:
            yield item


def clusters_of(source: Source, rule: SplitRule, options: Options) -> tuple[dict[str, str] | None, str | None]:
    """Maps protein ids to the first id of their cluster, when the split is drawn by clusters."""
    if options.split_by != "cluster" or not rule.drawn:
        return None, None
    if options.modality != "protein":
        raise SetClipError(
            f"--split-by cluster: clusters are of protein sequences, {source.path} holds {options.modality} rows",
            fix="--split-by group",
        )
    from setclip_cli.ingest.protein_clusters import cluster_sequences

    proteins = (
        (item.id, item.payload)
        for item in source.items(0, 1)
        if isinstance(item, Record) and isinstance(item.payload, str) and item.modality == "protein"
    )
    return cluster_sequences(proteins)
