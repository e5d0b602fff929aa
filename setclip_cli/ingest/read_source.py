"""Reads one source into the shards of a DATASET, batch by batch, and continues where a killed run stopped."""

from __future__ import annotations

import shutil
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli import console
from setclip_cli.dataset.schemas import GROUPED
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic, hashes
from setclip_cli.ingest.batches import MAX_SPLITS, RowBatch, ShardNames, write_batch
from setclip_cli.ingest.decide_again import DecidedAgain
from setclip_cli.ingest.dedup import REPEATED_ID, REPEATS, Dedup, KeepRules
from setclip_cli.ingest.earlier_sources import source_key
from setclip_cli.ingest.fixes import fix_of
from setclip_cli.ingest.near_duplicates import LookAlikes, perceptual_hash
from setclip_cli.ingest.prepare import CaptionSplits, clusters_of
from setclip_cli.ingest.progress import WrittenBatch, rejects_name, sha256_of_rejects
from setclip_cli.ingest.result import add_counts, check_sum
from setclip_cli.ingest.source_batches import Limits, batches_of, described, hash_of, info_of, rules_of
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.base import ORIGINAL
from setclip_cli.ingest.sources.rows import not_utf8
from setclip_cli.ingest.splits import parse_split
from setclip_cli.places import is_elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from setclip_cli.dataset.modality import RowKind
    from setclip_cli.ingest.contents import Contents
    from setclip_cli.ingest.labels import Labels
    from setclip_cli.ingest.options import SourceSettings
    from setclip_cli.ingest.progress import Progress
    from setclip_cli.ingest.read_ahead import ReadAhead, SourceRead
    from setclip_cli.ingest.sources.base import Source
    from setclip_cli.joins import Join


class SourceReader:
    """Adds sources to the contents of a DATASET, one after the other.

    Attributes:
        unchanged: The entries of sources that the DATASET holds as asked.
        joins: How labels and the splits of captions matched the records.
    """

    def __init__(self, contents: Contents, progress: Progress, limits: Limits, *, workers: int) -> None:
        self._contents, self._progress = contents, progress
        self._limits, self._workers = limits, workers
        self._dedup: Dedup | None = None
        self.unchanged: list[dict[str, Any]] = []
        self.joins: list[Join] = []

    def add(
        self,
        path: Path,
        settings: SourceSettings,
        labels: Labels,
        max_bad_fraction: float,
        ahead: ReadAhead | None = None,
    ) -> None:
        """Reads one source, unless the DATASET holds it unchanged.

        Args:
            ahead: The sources that workers read.

        Raises:
            SetClipError: the source cannot be read, or holds nothing usable or too many bad records.
        """
        source = open_source(path, settings)
        info = info_of(source, settings, self._contents.known(str(settings.modality)))
        description = described(source, settings, info)
        self._progress.to_read_again.pop(source_key(description), None)
        position = self._contents.position_of(description)
        if position is not None:
            entry = self._contents.sources[position]
            change = self._contents.change(entry, description)
            if not change:
                self.unchanged.append(entry)
                return
            console.note(f"{change}; this source and all after it are read again")
            self._forget_from(position)
        self._contents.know(str(settings.modality), info, path)
        entry = {**description, **self._read(source, hash_of(description), settings, labels, ahead)}
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
        self, source: Source, identity: str, settings: SourceSettings, labels: Labels, ahead: ReadAhead | None
    ) -> dict[str, Any]:
        """Reads a source from its start, or from where a killed run stopped; returns the rest of its entry."""
        contents, progress = self._contents, self._progress
        base = hash_of([contents.earlier.identity(), self._limits.shard_rows, self._limits.shard_bytes])
        finished = progress.resume(identity, base, contents.out)
        for earlier in finished:
            self._take(earlier)
        start = finished[-1].records if finished else 0
        if not (finished and finished[-1].last):
            dedup, rules, about = self._decision(source, settings, labels)
            labels.match()
            as_captions = parse_split(settings.split).as_captions
            splits = CaptionSplits(source, contents.dataset()) if as_captions else None
            if joins := [join for join in (labels.join, splits.join if splits else None) if join is not None]:
                about["joins"] = [join.as_json() for join in joins]
                self.joins += [join for join in joins if join not in self.joins]
            read = ahead.of(identity, rules) if ahead is not None and not start else None
            again = self._decided_again(*read, dedup, rules, settings) if read is not None else None
            if read is not None and again is not None and not again.changed:
                finished = self._take_read(*read, base, about)
            else:
                if again is not None:
                    known = self._contents.about(str(settings.modality))
                    found = again.batches(source.path.name, known, self._limits)
                else:
                    dedup, rules, _ = self._decision(source, settings, labels)
                    found = self._batches(source, start, dedup, rules, labels, splits, settings)
                finished += self._write_all(found, identity, base, source.path.name, about)
            if read is not None:
                shutil.rmtree(read[0], ignore_errors=True)
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
        with ExitStack() as stack:
            yield from batches_of(
                source,
                settings,
                rules,
                self._contents.about(str(settings.modality)),
                labels,
                dedup,
                self._limits,
                start=start,
                caption_splits=splits,
                splits=self._contents.splits(),
                workers=self._workers,
                shown=lambda records: stack.enter_context(
                    console.progress(records, label=source.path.name, unit="records")
                ),
            )

    def _write_all(
        self,
        found: Iterator[tuple[RowBatch, int, bool]],
        identity: str,
        base: str,
        source_name: str,
        about: dict[str, Any],
    ) -> list[WrittenBatch]:
        """Writes batches as they are found."""
        finished: list[WrittenBatch] = []
        numbers = self._contents.next_numbers()
        with ThreadPoolExecutor(1) as writer:  # writes one batch while the next one is read
            written: Future[WrittenBatch] | None = None
            for batch, records, last in found:
                if written is not None:
                    finished.append(self._take(written.result()))
                names: ShardNames = {}
                for modality, split in batch.parts():
                    names[modality, split] = f"{modality}/{split}-{numbers[modality, split]:05d}.parquet"
                    numbers[modality, split] += 1
                write = partial(self._write, source=identity, base=base, records=records, last=last, about=about)
                written = writer.submit(write, batch, names, source_name)
            if written is not None:
                finished.append(self._take(written.result()))
        return finished

    def _decided_again(
        self, folder: Path, read: SourceRead, dedup: Dedup, rules: KeepRules, settings: SourceSettings
    ) -> DecidedAgain | None:
        """What a worker has read, decided about after the rows before it; nothing if the source must be read again."""
        again = DecidedAgain(folder, read.shards, str(settings.modality), dedup, rules)
        if again.has_rows() and len(self._contents.splits() | again.splits()) <= MAX_SPLITS:
            return again
        self._dedup = None  # it knows rows of the source now
        return None

    def _take_read(self, folder: Path, read: SourceRead, base: str, about: dict[str, Any]) -> list[WrittenBatch]:
        """Makes what a worker has read a part of the DATASET."""
        finished = []
        numbers = self._contents.next_numbers()
        for batch in read.batches:
            shards, moves = [], {}
            for shard in batch.shards:
                number = numbers[shard.modality, shard.split]
                numbers[shard.modality, shard.split] += 1
                path = f"{shard.modality}/{shard.split}-{number:05d}.parquet"
                moves[folder / shard.path] = atomic.make_folder((self._contents.out / path).parent) / Path(path).name
                shards.append(shard.model_copy(update={"path": path}))
            if batch.rejects is not None:
                moves[folder / batch.rejects] = self._progress.folder / batch.rejects
            atomic.move_all(moves)
            for shard in shards:
                hashes.remember(self._contents.out / shard.path, shard.sha256)
            counts = {**batch.counts, "about": about}
            taken = batch.model_copy(update={"base": base, "shards": shards, "counts": counts})
            self._progress.add(taken)
            finished.append(self._take(taken))
        return finished

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
        rejects = rejects_name(source, records)
        rejects_path = self._progress.folder / rejects
        rows = {modality: self._contents.about(modality) for modality, _ in names}
        shards, counts = write_batch(batch, names, source_name, self._contents.out, rejects_path, rows)
        written = WrittenBatch(
            source=source,
            base=base,
            records=records,
            shards=shards,
            rejects=rejects if batch.rejects else None,
            rejects_sha256=sha256_of_rejects(self._progress.folder, rejects) if batch.rejects else None,
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
        clusters, clustered_by = clusters_of(source, parse_split(settings.split), settings, work=self._progress.folder)
        rules = rules_of(source, settings, self._contents.earlier, clusters)
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
            columns = _remembered_columns(kind, dataset.columns(shard))
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


def _remembered_columns(kind: RowKind, names: Iterable[str]) -> list[str]:
    """The columns of a shard that tell a Dedup what it must know of its rows."""
    grouped = ["group"] if kind in GROUPED else []
    return ["id", "split", "sha256", *grouped, *([ORIGINAL] if kind == "image" and ORIGINAL in names else [])]
