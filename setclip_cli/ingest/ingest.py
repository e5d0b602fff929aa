"""Sources -> DATASET: every record is taken, or stands in rejects.parquet with its reason.

Work is cut into units: runs of items of one source, up to ``SHARD_ROWS`` rows or ``SHARD_BYTES`` of payload. A unit's
shards are written whole, then its line is added to the journal; dataset.json is written last. Since a unit depends
on nothing but the items before it, a killed ingest that is run again ends with the bytes of an unbroken one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.modality import MODALITIES
from setclip_cli.errors import ExitCode, SetClipError, nearest
from setclip_cli.ingest import journal
from setclip_cli.ingest.annotations import Labels, read_pairs
from setclip_cli.ingest.dedup import NearDuplicates, SplitBy
from setclip_cli.ingest.options import Options, sha256_of
from setclip_cli.ingest.sources.base import ReadOptions
from setclip_cli.ingest.splits import parse_split

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from setclip_cli.ingest.annotations import StatedPair
    from setclip_cli.ingest.job import Job
    from setclip_cli.ingest.result import IngestResult

SHARD_ROWS = 100_000
SHARD_BYTES = 64 << 20  # of payload


def ingest(
    sources: Sequence[Path],
    *,
    modality: str,
    out: Path,
    labels: Path | None = None,
    pairs: Path | int | None = None,
    pairs_from_group: bool = False,
    split: str = "auto",
    split_by: str = "auto",
    keep_duplicates: bool = False,
    near_duplicates: str = "keep",
    max_bad_fraction: float = 0.5,
    read: ReadOptions | None = None,
    seed: int = 0,
    workers: int = 2,
    shard_rows: int = SHARD_ROWS,
    shard_bytes: int = SHARD_BYTES,
    manifest: dict[str, Any] | None = None,
) -> IngestResult:
    """Reads sources of one modality into a DATASET, a new one or one that is there already.

    A source that the DATASET holds unchanged is not read again. One that has changed, or is asked for with other
    options, is read again together with all that came after it, so the result is that of a fresh ingest.

    Args:
        sources: Files, folders or archives.
        modality: protein, image or caption.
        out: The DATASET folder.
        labels: CSV ``id,label``; stands above what the source says.
        pairs: CSV ``left_modality,left_id,right_modality,right_id``, added to the pairs that are there; or a count of
            pairs to draw, with ``seed``, from those that the captions' groups state.
        pairs_from_group: Each caption's group is a known pair: (what it describes, the caption).
        split: ``auto`` (the source's own splits, else train), a name for all, or shares drawn by hash. Drawn splits
            keep the captions of one group together and never put the same content in two splits.
        split_by: What is drawn: ``auto`` and ``group`` (a caption's group, else the id), ``id``, ``label`` (whole
            classes), ``cluster`` (proteins of similar sequence together).
        keep_duplicates: Keep exact repeats. By default a payload is kept once; a caption once for each group.
        near_duplicates: Images that look alike: ``keep`` (do not look), ``flag`` in a column, or ``drop``.
        max_bad_fraction: Fail when more than this share of a source's records is bad.
        read: Columns, formats and tiles, where files do not tell.
        seed: Of the pairs drawn.
        workers: Threads that read files. The result does not depend on it.
        shard_rows: Most rows in a unit.
        shard_bytes: Most payload bytes in a unit.
        manifest: Recorded in dataset.json when given.

    Raises:
        SetClipError: nothing usable in a source, too many bad records, ``out`` not ours or busy, a bad option.
    """
    from setclip_cli.ingest.job import Job
    from setclip_cli.ingest.sources import open_source

    options = Options(
        modality=_chosen("--modality", modality, MODALITIES),
        split=split,
        split_by=_chosen("--split-by", split_by, get_args(SplitBy)),
        labels=labels,
        keep_duplicates=keep_duplicates,
        near_duplicates=_chosen("--near-duplicates", near_duplicates, get_args(NearDuplicates)),
        max_bad_fraction=max_bad_fraction,
        read=read or ReadOptions(),
    )
    parse_split(split)
    named = Labels(labels)
    stated = read_pairs(pairs) if isinstance(pairs, Path) else []
    distinct = _distinct(sources)
    for path in distinct:
        open_source(path, options.modality, options.read)  # a bad path fails before anything is written
    with journal.locked(out) as work:
        job = Job(out, work, shard_rows=shard_rows, shard_bytes=shard_bytes, workers=workers)
        for path in distinct:
            job.add(path, options, named)
        job.redo_rest(max_bad_fraction)
        _pair(job, pairs, stated, pairs_from_group=pairs_from_group, seed=seed)
        return job.finish(unused_labels=len(named) - len(named.used), manifest=manifest)


def ingest_pairs(
    out: Path, *, pairs: Path | int | None, pairs_from_group: bool = False, seed: int = 0, max_bad_fraction: float = 0.5
) -> IngestResult:
    """Adds known pairs to a DATASET whose sources are all in it; arguments as in ``ingest``.

    Raises:
        SetClipError: no DATASET there, or a busy one; unusable pairs.
    """
    from setclip_cli.ingest.job import Job

    open_dataset(out)  # or nothing to pair
    stated = read_pairs(pairs) if isinstance(pairs, Path) else []
    with journal.locked(out) as work:
        job = Job(out, work, shard_rows=SHARD_ROWS, shard_bytes=SHARD_BYTES, workers=1)
        job.redo_rest(max_bad_fraction)
        _pair(job, pairs, stated, pairs_from_group=pairs_from_group, seed=seed)
        return job.finish(unused_labels=0)


def _pair(job: Job, pairs: Path | int | None, stated: list[StatedPair], *, pairs_from_group: bool, seed: int) -> None:
    if isinstance(pairs, Path):
        job.add_pairs(stated, {"from": str(pairs.resolve()), "sha256": sha256_of(pairs)})
    elif pairs is not None:
        job.add_group_pairs({"from": "group", "count": pairs, "seed": seed})
    if pairs_from_group:
        job.add_group_pairs({"from": "group", "count": None, "seed": None})


def _distinct(sources: Iterable[Path]) -> list[Path]:
    return list({path.resolve(): path for path in sources}.values())


def _chosen(option: str, value: str, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise SetClipError(
            f"{option} {value}: no such choice{nearest(value, known)}",
            fix=f"one of: {', '.join(known)}",
            exit_code=ExitCode.USAGE,
        )
    return value
