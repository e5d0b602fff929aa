"""The batches of one source, and all that decides them beside the rows before it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from setclip_cli.dataset.modality import KINDS_OF_NAMES
from setclip_cli.dataset.schemas import ModalityInfo, schema_of
from setclip_cli.ingest.batches import RowBatch, VectorRules, cut_batches
from setclip_cli.ingest.dedup import KeepRules
from setclip_cli.ingest.prepare import prepared, prepared_rows
from setclip_cli.ingest.sources.image import ImageFolder
from setclip_cli.ingest.sources.split_folders import NO_SPLIT, FileSplit, split_of_file
from setclip_cli.ingest.sources.vectors.source import VectorSource
from setclip_cli.ingest.sources.video import VideoFolder
from setclip_cli.ingest.splits import parse_split
from setclip_cli.ingest.vector_rows import decide_rows
from setclip_cli.places import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from setclip_cli.ingest.batches import DecisionLog
    from setclip_cli.ingest.dedup import Dedup
    from setclip_cli.ingest.earlier_sources import EarlierSources
    from setclip_cli.ingest.labels import Labels
    from setclip_cli.ingest.options import SourceSettings
    from setclip_cli.ingest.prepare import CaptionSplits
    from setclip_cli.ingest.sources.base import Record, Reject, Source
    from setclip_cli.ingest.sources.vectors.rows import Rows


@dataclass(frozen=True)
class Limits:
    """Where a batch ends."""

    shard_rows: int
    shard_bytes: int


def info_of(source: Source, settings: SourceSettings, known: ModalityInfo | None) -> ModalityInfo:
    """What dataset.json says about the modality of a source; the encoder of earlier rows, if it says none."""
    if not isinstance(source, VectorSource):
        return ModalityInfo(kind=settings.row_kind)
    encoder = settings.encoder or source.encoder or (known.encoder if known is not None else None)
    dtype: Literal["float16", "float32"] = "float16" if source.dtype.itemsize == 2 else "float32"
    return ModalityInfo(kind="vector", width=source.width, dtype=dtype, encoder=encoder)


def described(source: Source, settings: SourceSettings, info: ModalityInfo) -> dict[str, Any]:
    """The part of a source's entry in dataset.json that is known before it is read."""
    files = source.files()
    about = {} if settings.modality in KINDS_OF_NAMES else {"about": info.model_dump(exclude_none=True)}
    return {
        **about,
        "path": named(source.path.resolve()),
        "modality": settings.modality,
        "options": settings.identity(),
        "files": len(files),
        "fingerprint": hash_of([tuple(file) for file in files]),
    }


def hash_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def rules_of(
    source: Source, settings: SourceSettings, earlier: EarlierSources, clusters: Mapping[str, str] | None = None
) -> KeepRules:
    """What the settings and the place of a source say about its records.

    Args:
        earlier: The sources before it.
        clusters: Protein id -> the first id of its cluster, if the split is drawn by clusters.
    """
    path = Path(named(source.path.resolve()))
    return KeepRules(
        parse_split(settings.split),
        kind=settings.row_kind,
        split_by=settings.split_by,
        clusters=clusters,
        keep_duplicates=settings.keep_duplicates,
        near_duplicates=settings.near_duplicates,
        file_split=_file_split(source),
        sources=earlier.new_ends(path),
        group_source=earlier.group_source(path, settings.modality),
    )


def _file_split(source: Source) -> FileSplit:
    """What the place of a source says about its rows. A folder of images says it itself; `test.png` is no split."""
    path = source.path.resolve()
    by_name = not isinstance(source, ImageFolder | VideoFolder)
    return NO_SPLIT if path.is_dir() else split_of_file(Path(named(path)), by_name=by_name)


def batches_of(
    source: Source,
    settings: SourceSettings,
    rules: KeepRules,
    info: ModalityInfo,
    labels: Labels,
    dedup: Dedup,
    limits: Limits,
    *,
    start: int = 0,
    caption_splits: CaptionSplits | None = None,
    splits: Iterable[str] = (),
    workers: int = 1,
    log: DecisionLog | None = None,
    shown: Callable[[Iterator[Record | Reject | Rows]], Iterable[Record | Reject | Rows]] = lambda records: records,
) -> Iterator[tuple[RowBatch, int, bool]]:
    """Yields (batch, records of the source up to its end, whether it is the last).

    Args:
        info: What is known about the modality of its rows.
        dedup: What is known of the rows before it; it remembers those of this source.
        start: The number of records to leave out.
        caption_splits: The splits of the captions, if these decide.
        splits: Those that the DATASET has.
        workers: Threads that read files.
        log: Takes what is decided about each answer.
        shown: Shows the progress of reading.
    """
    records: Iterator[Record | Reject | Rows]
    vectors = None
    if isinstance(source, VectorSource):
        records = prepared_rows(source.rows(start), source, labels, caption_splits)
        decide_all = partial(decide_rows, dedup, dedup.vectors(str(settings.modality)), rules=rules)
        vectors = VectorRules(decide_all, schema_of("vector", info))
    else:
        records = prepared(source.records(start, workers), source, settings, labels, caption_splits, workers)
    yield from cut_batches(
        shown(records),
        partial(dedup.decide, rules=rules),
        source.path,
        start=start,
        splits=splits,
        max_rows=limits.shard_rows,
        max_bytes=limits.shard_bytes,
        vectors=vectors,
        log=log,
    )
