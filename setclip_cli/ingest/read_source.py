"""Reads one source into the shards of a DATASET, batch by batch, and continues where a killed run stopped."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from setclip_cli import console
from setclip_cli.dataset.modality import KINDS_OF_NAMES
from setclip_cli.dataset.schemas import GROUPED, ModalityInfo, schema_of
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.ingest.batches import RowBatch, ShardNames, VectorRules, cut_batches, write_batch
from setclip_cli.ingest.dedup import REPEATED_ID, REPEATS, Dedup, KeepRules
from setclip_cli.ingest.earlier_sources import source_key
from setclip_cli.ingest.fixes import fix_of
from setclip_cli.ingest.near_duplicates import LookAlikes, perceptual_hash
from setclip_cli.ingest.prepare import CaptionSplits, clusters_of, prepared, prepared_rows
from setclip_cli.ingest.progress import WrittenBatch
from setclip_cli.ingest.result import add_counts, check_sum
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.base import ORIGINAL
from setclip_cli.ingest.sources.image import ImageFolder
from setclip_cli.ingest.sources.rows import not_utf8
from setclip_cli.ingest.sources.split_folders import NO_SPLIT, FileSplit, split_of_file
from setclip_cli.ingest.sources.vectors.source import VectorSource
from setclip_cli.ingest.splits import parse_split
from setclip_cli.ingest.vector_rows import decide_rows
from setclip_cli.places import is_elsewhere, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from setclip_cli.ingest.contents import Contents
    from setclip_cli.ingest.labels import Labels
    from setclip_cli.ingest.options import SourceSettings
    from setclip_cli.ingest.progress import Progress
    from setclip_cli.ingest.sources.base import Record, Reject, Source
    from setclip_cli.ingest.sources.vectors.rows import Rows
    from setclip_cli.joins import Join


class SourceReader:
    """Adds sources to the contents of a DATASET, one after the other.

    Attributes:
        unchanged: The entries of sources that the DATASET holds as asked.
        joins: How labels and the splits of captions matched the records.
    """

    def __init__(
        self, contents: Contents, progress: Progress, *, shard_rows: int, shard_bytes: int, workers: int
    ) -> None:
        self._contents, self._progress = contents, progress
        self._shard_rows, self._shard_bytes, self._workers = shard_rows, shard_bytes, workers
        self._dedup: Dedup | None = None
        self.unchanged: list[dict[str, Any]] = []
        self.joins: list[Join] = []

    def add(self, path: Path, settings: SourceSettings, labels: Labels, max_bad_fraction: float) -> None:
        """Reads one source, unless the DATASET holds it unchanged.

        Raises:
            SetClipError: the source cannot be read, or holds nothing usable or too many bad records.
        """
        source = open_source(path, settings)
        info = _info_of(source, settings, self._contents.known(str(settings.modality)))
        described = _described(source, settings, info)
        self._progress.to_read_again.pop(source_key(described), None)
        position = self._contents.position_of(described)
        if position is not None:
            entry = self._contents.sources[position]
            change = self._contents.change(entry, described)
            if not change:
                self.unchanged.append(entry)
                return
            console.note(f"{change}; this source and all after it are read again")
            self._forget_from(position)
        self._contents.know(str(settings.modality), info, path)
        entry = {**described, **self._read(source, described, settings, labels)}
        self._contents.add_source(entry)
        self._check(path, entry, max_bad_fraction)

    def _forget_from(self, position: int) -> None:
        """Leaves out a source and those after it; those after it are to be read again."""
        later = self._contents.sources[position + 1 :]
        for entry in later:
            if not is_elsewhere(entry["path"]) and not Path(entry["path"]).exists():
                raise SetClipError(
                    f"{entry['path']}: is not there any more; it must be read again, because a source before it has "
                    "changed",
                    fix=f"put it back, or choose a new {argument('out')}",
                )
        self._progress.to_read_again = {source_key(entry): entry for entry in later} | self._progress.to_read_again
        self._contents.remove_sources(position)
        self._dedup = None

    def _read(
        self, source: Source, described: dict[str, Any], settings: SourceSettings, labels: Labels
    ) -> dict[str, Any]:
        """Reads a source from its start, or from where a killed run stopped; returns the rest of its entry."""
        contents, progress = self._contents, self._progress
        identity = _hash(described)
        base = _hash([contents.earlier.identity(), self._shard_rows, self._shard_bytes])
        finished = progress.resume(identity, base, contents.out)
        for earlier in finished:
            self._take(earlier)
        start = finished[-1].records if finished else 0
        if not (finished and finished[-1].last):
            numbers = contents.next_numbers()
            dedup, rules, about = self._decision(source, settings, labels)
            labels.match()
            as_captions = parse_split(settings.split).as_captions
            splits = CaptionSplits(source, contents.dataset()) if as_captions else None
            if joins := [join for join in (labels.join, splits.join if splits else None) if join is not None]:
                about["joins"] = [join.as_json() for join in joins]
                self.joins += [join for join in joins if join not in self.joins]
            with ThreadPoolExecutor(1) as writer:  # writes one batch while the next one is read
                written: Future[WrittenBatch] | None = None
                for batch, records, last in self._batches(source, start, dedup, rules, labels, splits, settings):
                    if written is not None:
                        finished.append(self._take(written.result()))
                    names: ShardNames = {}
                    for modality, split in batch.parts():
                        names[modality, split] = f"{modality}/{split}-{numbers[modality, split]:05d}.parquet"
                        numbers[modality, split] += 1
                    write = partial(self._write, source=identity, base=base, records=records, last=last, about=about)
                    written = writer.submit(write, batch, names, source.path.name)
                if written is not None:
                    finished.append(self._take(written.result()))
        counts = add_counts([each.counts for each in finished])
        check_sum(source.path, counts, finished[-1].records)
        return {
            **counts,
            "shards": [shard.path for each in finished for shard in each.shards],
        }

    def _take(self, batch: WrittenBatch) -> WrittenBatch:
        self._contents.add_batch(batch.shards, self._progress.folder / batch.rejects if batch.rejects else None)
        return batch

    def _batches(
        self,
        source: Source,
        start: int,
        dedup: Dedup,
        rules: KeepRules,
        labels: Labels,
        splits: CaptionSplits | None,
        settings: SourceSettings,
    ) -> Iterator[tuple[RowBatch, int, bool]]:
        records: Iterator[Record | Reject | Rows]
        vectors = None
        if isinstance(source, VectorSource):
            records = prepared_rows(source.rows(start), source, labels, splits)
            modality = str(settings.modality)
            decide_all = partial(decide_rows, dedup, dedup.vectors(modality), rules=rules)
            vectors = VectorRules(decide_all, schema_of("vector", self._contents.about(modality)))
        else:
            found = source.records(start, self._workers)
            records = prepared(found, source, settings, labels, splits, self._workers)
        with console.progress(records, label=source.path.name, unit="records") as shown:
            yield from cut_batches(
                shown,
                partial(dedup.decide, rules=rules),
                source.path,
                start=start,
                splits=self._contents.splits(),
                max_rows=self._shard_rows,
                max_bytes=self._shard_bytes,
                vectors=vectors,
            )

    def _write(
        self,
        batch: RowBatch,
        names: ShardNames,
        source_name: str,
        *,
        source: str,
        base: str,
        records: int,
        last: bool,
        about: dict[str, Any],
    ) -> WrittenBatch:
        """Writes the shards and rejects of a batch, then records it as written."""
        rejects = f"rejects-{source[:16]}-{records:012d}.parquet"
        rejects_path = self._progress.folder / rejects
        rows = {modality: self._contents.about(modality) for modality, _ in names}
        shards, counts = write_batch(batch, names, source_name, self._contents.out, rejects_path, rows)
        written = WrittenBatch(
            source=source,
            base=base,
            records=records,
            shards=shards,
            rejects=rejects if batch.rejects else None,
            rejects_sha256=atomic.sha256_file(rejects_path) if batch.rejects else None,
            counts={**counts, "about": about},
            last=last,
        )
        self._progress.add(written)
        return written

    def _decision(
        self, source: Source, settings: SourceSettings, labels: Labels
    ) -> tuple[Dedup, KeepRules, dict[str, Any]]:
        """What decides about each record, and what the entry says about clusters."""
        if self._dedup is None or (settings.near_duplicates != "keep" and self._dedup.look_alikes is None):
            self._dedup = self._dedup_of_rows(settings)
        rule = parse_split(settings.split)
        clusters, clustered_by = clusters_of(source, rule, settings, work=self._progress.folder)
        path, earlier = Path(named(source.path.resolve())), self._contents.earlier
        rules = KeepRules(
            rule,
            kind=settings.row_kind,
            split_by=settings.split_by,
            clusters=clusters,
            keep_duplicates=settings.keep_duplicates,
            near_duplicates=settings.near_duplicates,
            file_split=_file_split(source),
            sources=earlier.new_ends(path),
            group_source=earlier.group_source(path, settings.modality),
        )
        about: dict[str, Any] = {"notes": notes} if (notes := [*source.notes(), *labels.notes]) else {}
        if clusters is not None:
            about |= {"clusters": len(set(clusters.values())), "clustered_by": clustered_by}
        return self._dedup, rules, about

    def _dedup_of_rows(self, settings: SourceSettings) -> Dedup:
        """A Dedup that knows all rows on disk."""
        look_alikes = LookAlikes() if settings.near_duplicates != "keep" else None
        dedup, dataset = Dedup(look_alikes), self._contents.dataset()
        for shard in dataset.index.shards:
            kind = dataset.kind(shard.modality)
            if look_alikes is not None and kind == "image":
                for row in dataset.read(shard, ["id", "split", "image"]).to_pylist():
                    value = perceptual_hash(row["image"])
                    if value is not None and look_alikes.find(value) is None:
                        look_alikes.add(value, row["id"], row["split"])
            columns = ["id", "split", "sha256", *(["group"] if kind in GROUPED else [])]
            if kind == "image" and ORIGINAL in dataset.columns(shard):
                columns.append(ORIGINAL)
            remember = dedup.remember_vectors if kind == "vector" else dedup.remember
            remember(shard.modality, dataset.read(shard, columns))
        return dedup

    def _check(self, path: Path, entry: dict[str, Any], max_bad_fraction: float) -> None:
        """Refuses a source that gave nothing, or too much that cannot be used."""
        read, bad, modality = entry["read"] - sum(entry["left_out"].values()), entry["bad"], entry["modality"]
        counts = Counter({reason: count for reason, count in entry["rejects"].items() if reason not in REPEATS})
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in counts.most_common(3))
        check = "check that this is the file you meant"
        if not read:
            raise SetClipError(f"{path}: there are no {modality} records in it", fix=check)
        if bad > max_bad_fraction * read or bad == read:
            self._contents.list_rejects_of_failure()
            if any(reason.startswith("not UTF-8") for reason in counts):
                fix = not_utf8(path, reasons).fix
            elif counts.most_common(1)[0][0] == REPEATED_ID:
                taken = self._contents.first_new_reject(REPEATED_ID)
                fix = (
                    f"give each record its own id ({taken!r} is the id of other content already, here or in an earlier "
                    f"source), or choose another {argument('out')}"
                )
            else:
                fix = fix_of(counts.most_common(1)[0][0]) or "see the list for what is wrong with each record"
            if bad < read:
                more = min(1.0, bad / read + 0.01)
                fix += f"; or leave them out: {argument('max_bad_fraction')} {more:.2f}"
            raise SetClipError(
                f"{path}: {bad:,} of {read:,} records are bad ({reasons}); "
                f"{self._contents.out / 'rejects.parquet'} lists all of them",
                fix=fix,
            )
        if not entry["rows"] and not {REPEATED_ID, *REPEATS} & set(entry["rejects"]):
            raise SetClipError(f"{path}: there are no {modality} records in it ({reasons})", fix=check)


def _file_split(source: Source) -> FileSplit:
    """What the place of a source says about its rows. A folder of images says it itself; `test.png` is no split."""
    path = source.path.resolve()
    return NO_SPLIT if path.is_dir() else split_of_file(Path(named(path)), by_name=not isinstance(source, ImageFolder))


def _info_of(source: Source, settings: SourceSettings, known: ModalityInfo | None) -> ModalityInfo:
    """What dataset.json says about the modality of a source; the encoder of earlier rows, if it says none."""
    if not isinstance(source, VectorSource):
        return ModalityInfo(kind=settings.row_kind)
    encoder = settings.encoder or source.encoder or (known.encoder if known is not None else None)
    dtype: Literal["float16", "float32"] = "float16" if source.dtype.itemsize == 2 else "float32"
    return ModalityInfo(kind="vector", width=source.width, dtype=dtype, encoder=encoder)


def _described(source: Source, settings: SourceSettings, info: ModalityInfo) -> dict[str, Any]:
    """The part of a source's entry in dataset.json that is known before it is read."""
    files = source.files()
    about = {} if settings.modality in KINDS_OF_NAMES else {"about": info.model_dump(exclude_none=True)}
    return {
        **about,
        "path": named(source.path.resolve()),
        "modality": settings.modality,
        "options": settings.identity(),
        "files": len(files),
        "fingerprint": _hash([tuple(file) for file in files]),
    }


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
