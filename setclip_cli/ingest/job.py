"""One ingest command at work on a DATASET: units, shards, pairs, and the index that is written last."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli import console
from setclip_cli.dataset.dataset import INDEX_NAME, PAIRS_SCHEMA, Dataset, DatasetIndex, open_dataset
from setclip_cli.dataset.modality import MODALITIES
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.ingest import journal, pairing
from setclip_cli.ingest.annotations import Labels
from setclip_cli.ingest.batches import Names, Unit, cut_units, rejects_table, write_table, write_unit
from setclip_cli.ingest.dedup import NO_LOSS, Admission, Admitted, Policy
from setclip_cli.ingest.near_duplicates import LookAlikes, perceptual_hash
from setclip_cli.ingest.options import Options, options_of
from setclip_cli.ingest.prepare import clusters_of, prepared
from setclip_cli.ingest.result import IngestResult, merge_tallies
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.rows import not_utf8
from setclip_cli.ingest.splits import parse_split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from setclip_cli.ingest.annotations import StatedPair
    from setclip_cli.ingest.sources.base import Source

    Decide = Callable[[Record], Admitted | Reject]

PENDING_NAME = "pending.json"


class Job:
    """Adds sources to a DATASET in turn; ``finish`` makes the result visible."""

    def __init__(self, out: Path, work: Path, *, shard_rows: int, shard_bytes: int, workers: int) -> None:
        self._out, self._work = out, work
        self._shard_rows, self._shard_bytes, self._workers = shard_rows, shard_bytes, workers
        self._index = open_dataset(out).index if (out / INDEX_NAME).exists() else DatasetIndex(shards=[])
        self._shards = list(self._index.shards)
        self._entries = [dict(entry) for entry in self._index.sources]
        self._pending: list[dict[str, Any]] = _read_pending(work)  # sources to be read again after a changed one
        self._new: list[dict[str, Any]] = []
        self._unchanged: list[dict[str, Any]] = []
        self._reject_parts: list[Path] = []
        self._journal = journal.read_units(work)
        self._resumed = 0
        self._resumed_source = False  # then which labels were used is not known
        self._admission: Admission | None = None
        self._pairs = pairing.Pairing(Dataset(out, self._index).pairs(), self._index.pairs)

    def add(self, path: Path, options: Options, labels: Labels) -> None:
        """Reads one source, unless the DATASET holds it unchanged.

        Raises:
            SetClipError: as ``ingest`` does.
        """
        source = open_source(path, options.modality, options.read)
        described = _described(source, options)
        self._pending = [entry for entry in self._pending if not _same_source(entry, described)]
        for position, entry in enumerate(self._entries):
            if _same_source(entry, described):
                if all(entry[key] == value for key, value in described.items()) and self._whole(entry):
                    self._unchanged.append(entry)
                    return
                console.note(
                    f"{path}: changed since it went into {self._out}; it and what came after it are read again"
                )
                self._rewind(position)
                break
        tally = self._read(source, described, options, labels)
        entry = {**described, **tally}
        self._entries.append(entry)
        self._new.append(entry)
        self._check_bad(path, entry, options)

    def redo_rest(self, max_bad_fraction: float) -> None:
        """Reads again the sources that came after a changed one."""
        while self._pending:
            entry = self._pending[0]
            options = options_of(entry, max_bad_fraction)
            self.add(Path(entry["path"]), options, Labels(options.labels))

    def _rewind(self, position: int) -> None:
        """Makes the DATASET that of the sources before a position; the later ones are to be read again."""
        dropped = self._entries[position:]
        for entry in dropped[1:]:
            if not Path(entry["path"]).exists():
                raise SetClipError(
                    f"{entry['path']}: gone, and it must be read again since a source before it has changed",
                    fix="ingest into a new --out",
                )
        kept = self._entries[:position]
        paths = {path for entry in kept for path in entry["shards"]}
        self._entries = list(kept)  # grows, while the index keeps what it has
        self._shards = [shard for shard in self._shards if shard.path in paths]
        self._pending = [*dropped[1:], *self._pending]
        atomic.write_json(self._work / PENDING_NAME, {"sources": self._pending})
        sources, pairs = self._earlier_rejects()
        rejects = Counter(self._index.rejects)
        rejects.subtract(_rejects_of(dropped))
        write_table(
            self._out / "rejects.parquet", pa.concat_tables([sources.slice(0, _rejects_of(kept).total()), pairs])
        )
        self._write_index(shards=self._shards, sources=kept, rejects=dict(sorted((+rejects).items())))
        self._admission = None
        self._pairs.recheck = True

    def _whole(self, entry: dict[str, Any]) -> bool:
        """Whether the shards of a source are on disk with their sizes."""
        sizes = {shard.path: shard.bytes for shard in self._shards}
        return all(_size(self._out / path) == sizes.get(path) for path in entry["shards"])

    def _read(self, source: Source, described: dict[str, Any], options: Options, labels: Labels) -> dict[str, Any]:
        identity = _hash(described)
        base = _hash([self._entries, self._shard_rows, self._shard_bytes])
        finished = self._resumable(identity, base)
        for unit in finished:
            self._account(unit)
        start = finished[-1].items if finished else 0
        self._resumed_source = self._resumed_source or start > 0
        if not (finished and finished[-1].last):
            numbers = Counter((shard.modality, shard.split) for shard in self._shards)
            decide, clusters = self._decision(source, options)
            with ThreadPoolExecutor(1) as writer:
                pending: Future[journal.Unit] | None = None
                for rows, items, last in self._units(source, start, decide, labels, options):
                    if pending is not None:
                        finished.append(self._record(pending.result()))
                    names: Names = {}
                    for modality, split in sorted(rows.columns):
                        names[modality, split] = f"{modality}/{split}-{numbers[modality, split]:05d}.parquet"
                        numbers[modality, split] += 1
                    write = partial(self._write, identity=identity, base=base, items=items, last=last, about=clusters)
                    pending = writer.submit(write, rows, names, source.path.name)
                if pending is not None:
                    finished.append(self._record(pending.result()))
        return {
            **merge_tallies([unit.tally for unit in finished]),
            "shards": [shard.path for unit in finished for shard in unit.shards],
        }

    def _resumable(self, identity: str, base: str) -> list[journal.Unit]:
        """The units of this source that an earlier, killed run has finished; forgets what follows them."""
        finished: list[journal.Unit] = []
        for unit in self._journal[self._resumed :]:
            whole = all(_size(self._out / shard.path) == shard.bytes for shard in unit.shards)
            if (unit.source, unit.base) != (identity, base) or not whole:
                break
            finished.append(unit)
            if unit.last:
                break
        self._resumed += len(finished)
        if not (finished and finished[-1].last):
            self._journal = self._journal[: self._resumed]
        journal.rewrite(self._work, self._journal)
        return finished

    def _account(self, unit: journal.Unit) -> None:
        self._shards.extend(unit.shards)
        if unit.rejects:
            self._reject_parts.append(self._work / unit.rejects)

    def _record(self, unit: journal.Unit) -> journal.Unit:
        """Takes note of a unit that this run has written."""
        self._account(unit)
        self._journal.append(unit)
        self._resumed += 1
        return unit

    def _decision(self, source: Source, options: Options) -> tuple[Decide, dict[str, Any]]:
        """What decides about each record, with all that was taken before it in mind."""
        if self._admission is None or (options.near_duplicates != "keep" and self._admission.near is None):
            self._admission = self._recalled(options)
        rule = parse_split(options.split)
        clusters, clustered_by = clusters_of(source, rule, options)
        policy = Policy(
            rule,
            split_by=options.split_by,
            clusters=clusters,
            keep_duplicates=options.keep_duplicates,
            near_duplicates=options.near_duplicates,
        )
        found = {} if clusters is None else {"clusters": len(set(clusters.values())), "clustered_by": clustered_by}
        return partial(self._admission.admit, policy=policy), found

    def _recalled(self, options: Options) -> Admission:
        near = LookAlikes() if options.near_duplicates != "keep" else None
        admission = Admission(near)
        dataset = Dataset(self._out, self._index)
        for shard in self._shards:
            columns = ["id", "split", "sha256", *(["group"] if shard.modality == "caption" else [])]
            if near is not None and shard.modality == "image":
                for row in dataset.read(shard, ["id", "split", "image"]).to_pylist():
                    value = perceptual_hash(row["image"])
                    if value is not None and near.find(value) is None:
                        near.add(value, row["id"], row["split"])
            admission.recall(shard.modality, dataset.read(shard, columns))
        return admission

    def _units(
        self, source: Source, start: int, decide: Decide, labels: Labels, options: Options
    ) -> Iterator[tuple[Unit, int, bool]]:
        written = Dataset(self._out, DatasetIndex(shards=self._shards))
        items = prepared(source.items(start, self._workers), options, labels, written, self._workers)
        with console.progress(items, label=source.path.name, unit="records") as found:
            yield from cut_units(
                found,
                decide,
                source.path,
                start=start,
                splits={shard.split for shard in self._shards},
                rows=self._shard_rows,
                payload_bytes=self._shard_bytes,
            )

    def _write(
        self,
        unit: Unit,
        names: Names,
        source: str,
        *,
        identity: str,
        base: str,
        items: int,
        last: bool,
        about: dict[str, Any],
    ) -> journal.Unit:
        """Writes a unit's shards and rejects, then its line in the journal."""
        part = f"rejects-{identity[:16]}-{items:012d}.parquet"
        shards, tally = write_unit(unit, names, source, self._out, self._work / part)
        written = journal.Unit(
            source=identity,
            base=base,
            items=items,
            shards=shards,
            rejects=part if unit.rejects else None,
            tally={**tally, "about": about},
            last=last,
        )
        journal.append(self._work, written)
        return written

    def _check_bad(self, path: Path, entry: dict[str, Any], options: Options) -> None:
        read, bad, modality = entry["read"], entry["bad"], entry["modality"]
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in Counter(entry["rejects"]).most_common(3))
        check = "check that this is the file you meant"
        if not read:
            raise SetClipError(f"{path}: no {modality} records in it", fix=check)
        if bad > options.max_bad_fraction * read or bad == read:
            self._write_rejects([], finished=False)
            if (self._out / INDEX_NAME).exists():
                self._write_index()  # what was there before stays whole
            badly_encoded = any(reason.startswith("not UTF-8") for reason in entry["rejects"])
            raise SetClipError(
                f"{path}: {bad:,} of {read:,} records are bad ({reasons}); all are in {self._out / 'rejects.parquet'}",
                fix=(not_utf8(path, reasons).fix if badly_encoded else "mend the source")
                + (f", or pass --max-bad-fraction {min(1.0, bad / read + 0.01):.2f}" if bad < read else ""),
            )
        if not entry["rows"] and not NO_LOSS & set(entry["rejects"]):
            raise SetClipError(f"{path}: no {modality} records in it ({reasons})", fix=check)

    def add_pairs(self, stated: list[StatedPair], origin: dict[str, Any]) -> None:
        """Resolves stated pairs against the rows and joins them to those the DATASET has."""
        if self._pairs.knows(origin) and not self._new:
            return
        self._pairs.add(Dataset(self._out, DatasetIndex(shards=self._shards)), stated, origin)

    def add_group_pairs(self, origin: dict[str, Any]) -> None:
        """Pairs each caption with what it describes: all of them, or as many as ``origin`` says."""
        if self._pairs.knows(origin) and not self._new:
            return
        self._pairs.add_groups(Dataset(self._out, DatasetIndex(shards=self._shards)), origin)

    def finish(self, *, unused_labels: int, manifest: dict[str, Any] | None = None) -> IngestResult:
        """Writes pairs.parquet, rejects.parquet and, last, dataset.json."""
        if self._pairs.recheck:
            self._pairs.drop_unknown(Dataset(self._out, DatasetIndex(shards=self._shards)))
        manifests = self._index.manifests
        if manifest is not None and manifest not in manifests:
            manifests = [*manifests, manifest]
        if self._new or self._pairs.changed or manifests != self._index.manifests:
            if self._pairs.changed:
                rows = [pair._asdict() for pair in self._pairs.pairs]
                write_table(self._out / "pairs.parquet", pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA))
            self._write_rejects(self._pairs.rejects, finished=True)
            rejects = Counter(self._index.rejects) + _rejects_of(self._new)
            rejects.update(reject.kind for reject in self._pairs.rejects)
            self._write_index(
                shards=sorted(self._shards, key=lambda shard: shard.path),
                rejects=dict(sorted(rejects.items())),
                sources=self._entries,
                manifests=manifests,
                pairs=self._pairs.origins,
            )
            self._remove_strays()
        journal.clear(self._work)
        return IngestResult(
            out=self._out,
            new=self._new,
            unchanged=self._unchanged,
            index=self._index,
            pairs=len(self._pairs.pairs),
            pair_rejects=dict(Counter(reject.kind for reject in self._pairs.rejects)),
            unused_labels=unused_labels if self._new and not self._resumed_source else 0,
        )

    def _write_index(self, **changes: Any) -> None:
        """Writes dataset.json with the changes, and with the hashes of the two files beside it."""
        present = [name for name in ("pairs.parquet", "rejects.parquet") if (self._out / name).exists()]
        files = {name: atomic.sha256_file(self._out / name) for name in present}
        self._index = self._index.model_copy(update={**changes, "files": files})
        atomic.write_json(self._out / INDEX_NAME, self._index.model_dump(mode="json"))

    def _write_rejects(self, pair_rejects: list[Reject], *, finished: bool) -> None:
        """Rejects of the sources in their order, then those of the pairs; last those of a command that failed."""
        sources, pairs = self._earlier_rejects()
        new = [pq.read_table(part) for part in self._reject_parts]
        tables = [sources, *new, pairs, rejects_table("pairs", pair_rejects)] if finished else [sources, pairs, *new]
        write_table(self._out / "rejects.parquet", pa.concat_tables(tables))

    def _earlier_rejects(self) -> tuple[pa.Table, pa.Table]:
        """What the index counts of rejects.parquet: rows of its sources, rows of its pairs."""
        everything, of_sources = sum(self._index.rejects.values()), _rejects_of(self._index.sources).total()
        if not everything:
            return rejects_table("", []), rejects_table("", [])
        table = pq.read_table(self._out / "rejects.parquet")
        return table.slice(0, of_sources), table.slice(of_sources, everything - of_sources)

    def _remove_strays(self) -> None:
        """Removes what no longer belongs: half-written files of killed runs, shards of a source since read again."""
        listed = {shard.path for shard in self._shards}
        for half_written in [*self._out.glob(".*.tmp"), *self._out.glob("*/.*.tmp")]:
            half_written.unlink()
        for modality in MODALITIES:
            for path in (self._out / modality).glob("*-[0-9][0-9][0-9][0-9][0-9].parquet"):
                if f"{modality}/{path.name}" not in listed:
                    path.unlink()


def _described(source: Source, options: Options) -> dict[str, Any]:
    """The part of a source's entry in dataset.json that is known before it is read."""
    files = source.files()
    return {
        "path": str(source.path.resolve()),
        "modality": options.modality,
        "options": options.identity(),
        "files": len(files),
        "fingerprint": _hash([tuple(file) for file in files]),
    }


def _same_source(entry: dict[str, Any], described: dict[str, Any]) -> bool:
    return bool(entry["path"] == described["path"] and entry["modality"] == described["modality"])


def _read_pending(work: Path) -> list[dict[str, Any]]:
    path = work / PENDING_NAME
    return list(json.loads(path.read_bytes())["sources"]) if path.exists() else []


def _rejects_of(entries: Iterable[dict[str, Any]]) -> Counter[str]:
    """Counts by reason over entries of dataset.json."""
    counts: Counter[str] = Counter()
    for entry in entries:
        counts.update(entry["rejects"])
    return counts


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
