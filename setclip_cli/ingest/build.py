"""Files -> DATASET: every record becomes a row, or a line of rejects.parquet with the reason.

The records of a source are read in batches of up to ``SHARD_ROWS`` rows or ``SHARD_BYTES`` of payload. The shards of a
batch are written whole, then its line is added to the record of progress; dataset.json is written last. A batch depends
only on the records before it. So a killed ingest that is run again gives the same bytes as an unbroken one.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.dataset.dataset import INDEX_NAME, open_dataset
from setclip_cli.dataset.modality import Modality
from setclip_cli.dataset.schemas import ModalityInfo
from setclip_cli.ingest.annotations import PairFile, read_pairs
from setclip_cli.ingest.contents import Contents
from setclip_cli.ingest.labels import Labels
from setclip_cli.ingest.options import IngestOptions, SourceSettings, sha256_of, with_known_kind
from setclip_cli.ingest.own_folders import refuse_own_folders
from setclip_cli.ingest.pairing import PairTable
from setclip_cli.ingest.progress import Progress, locked
from setclip_cli.ingest.read_ahead import ReadAhead, sources_to_read
from setclip_cli.ingest.read_source import SourceReader
from setclip_cli.ingest.result import IngestResult
from setclip_cli.ingest.source_batches import Limits
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.splits import parse_split
from setclip_cli.places import named
from setclip_cli.remote.arguments import brought
from setclip_cli.remote.copies import local_path

if TYPE_CHECKING:
    from collections.abc import Iterable


SHARD_ROWS = 100_000
SHARD_BYTES = 64 << 20  # of payload


def build_dataset(
    paths: Iterable[Path],
    out: Path,
    options: IngestOptions,
    *,
    manifest: dict[str, Any] | None = None,
    labels: Labels | None = None,
    shard_rows: int = SHARD_ROWS,
    shard_bytes: int = SHARD_BYTES,
) -> IngestResult:
    """Adds the rows of files, folders and archives of one modality to a DATASET, then the known pairs.

    Arguments and errors are those of ``ingest``; ``manifest`` is recorded in dataset.json, and ``labels`` are those of
    the options, if they are joined to more than these paths.
    """
    paths = list({path.resolve(): path for path in paths}.values())  # each once
    known: dict[Modality, ModalityInfo] = {}
    with suppress(OSError):  # a path that cannot be looked at is refused where the folder is made
        known = open_dataset(out).index.modalities if (out / INDEX_NAME).exists() else {}
    options = with_known_kind(options, known, out)
    parse_split(options.split)
    named = [*known, *([] if options.modality is None else [options.modality])]
    file_pairs = read_pairs(Path(options.pairs), named) if isinstance(options.pairs, str | Path) else PairFile()
    dropped = read_pairs(Path(options.drop_pairs), named) if options.drop_pairs is not None else PairFile()
    sources = [open_source(path, options) for path in paths]  # a bad path fails before anything is written
    for source in sources:
        refuse_own_folders(source, out)
    labels = labels or Labels(options.labels, sources)
    if not paths:
        open_dataset(out)  # or there is nothing to pair
    with locked(out) as work:
        contents, progress = Contents(out), Progress(work)
        stopped_while_replacing = bool(progress.to_read_again)  # rows are missing from dataset.json then
        limits = Limits(shard_rows, shard_bytes)
        reader = SourceReader(contents, progress, limits, workers=options.workers)
        paths = contents.in_order(paths)
        with ReadAhead(sources_to_read(paths, contents, progress, options, labels, limits), options) as ahead:
            for path in paths:
                reader.add(path, options, labels, options.max_bad_fraction, ahead)
        while progress.to_read_again:
            entry = next(iter(progress.to_read_again.values()))
            settings, path = brought(SourceSettings.of_entry(entry)), local_path(entry["path"])
            reader.add(
                path,
                settings,
                Labels(settings.labels, [open_source(path, settings)], required=False),
                options.max_bad_fraction,
            )
        pairs = _paired(contents, options, file_pairs, look_up_again=contents.rows_removed or stopped_while_replacing)
        pairs_dropped = 0 if options.drop_pairs is None else pairs.drop(dropped, Path(options.drop_pairs))
        if contents.rows_removed:
            progress.note_pending(contents.new)
        contents.finish(pairs, manifest)
        progress.clear()
        return IngestResult(
            out=out,
            new=contents.new,
            unchanged=reader.unchanged,
            index=contents.index,
            pairs=len(pairs.pairs),
            pair_rejects=pairs.reject_counts(),
            pair_examples=pairs.reject_examples(),
            pairs_unanswered=file_pairs.unanswered,
            pairs_without_partner=len(file_pairs.lone),
            pairs_dropped=pairs_dropped,
            joins=[*reader.joins, *pairs.joins],
        )


def _paired(contents: Contents, options: IngestOptions, file_pairs: PairFile, *, look_up_again: bool) -> PairTable:
    """The pairs that the DATASET has and those that the options add.

    Args:
        look_up_again: Rows were replaced, so the pairs that the DATASET has may have lost theirs.
    """
    dataset, rows_added = contents.dataset(), bool(contents.new)
    pairs = PairTable(dataset.pairs(), contents.index.pairs)
    if look_up_again:
        pairs.drop_unknown(dataset)
        pairs.draw_again(dataset)
    if isinstance(options.pairs, str | Path):
        path = Path(options.pairs)
        origin = {"from": named(path.resolve()), "sha256": sha256_of(path)}
        if rows_added or not pairs.has(origin):
            pairs.add(dataset, file_pairs, origin, repeats=contents.repeats)
    elif options.pairs is not None:
        pairs.add_groups(dataset, count=options.pairs, seed=options.seed, again=rows_added)
    if options.pairs_from_group:
        pairs.add_groups(dataset, count=None, seed=None, again=rows_added)
    return pairs
