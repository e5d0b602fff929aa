"""Sources -> DATASET: every record is taken, or stands in rejects.parquet with its reason.

Work is cut into units: runs of items of one source, up to ``SHARD_ROWS`` rows or ``SHARD_BYTES`` of payload. A unit's
shards are written whole, then its line is added to the journal; dataset.json is written last. Since a unit depends
on nothing but the items before it, a killed ingest that is run again ends with the bytes of an unbroken one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli import atomic, journal
from setclip_cli.annotations import Known, Labels, StatedPair, pairs_of_groups, read_pairs, resolve
from setclip_cli.errors import ExitCode, SetClipError, nearest
from setclip_cli.ingest_summary import IngestResult, count_rows, merge_tallies
from setclip_cli.shards import (
    INDEX_NAME,
    MODALITIES,
    PAIRS_SCHEMA,
    REJECTS_SCHEMA,
    SCHEMAS,
    Dataset,
    DatasetIndex,
    Modality,
    Pair,
    open_dataset,
    write_shard,
)
from setclip_cli.sources import open_source
from setclip_cli.sources.base import Record, Reject
from setclip_cli.splits import SPLIT_NAME, SplitRule, parse_split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from setclip_cli.sources.base import Source

SHARD_ROWS = 100_000
SHARD_BYTES = 64 << 20  # of payload
MAX_SPLITS = 16
DUPLICATE = "duplicate of a record already taken"
REPEATED_ID = "id already taken by a different record"
OTHER_SPLIT = "same content as a record in another split"


@dataclass(frozen=True)
class Options:
    """How sources are read; part of what decides whether a source is already in the DATASET as asked."""

    split: str = "auto"
    labels: Path | None = None
    text_column: str | None = None
    keep_duplicates: bool = False
    max_bad_fraction: float = 0.5

    def identity(self) -> dict[str, Any]:
        """JSON for dataset.json: what changes the rows (the labels by their content)."""
        return {
            "split": self.split,
            "labels": None if self.labels is None else str(self.labels.resolve()),
            "labels_sha256": None if self.labels is None else _sha256_of(self.labels),
            "text_column": self.text_column,
            "keep_duplicates": self.keep_duplicates,
        }


def ingest(
    sources: Sequence[Path],
    *,
    modality: str,
    out: Path,
    labels: Path | None = None,
    pairs: Path | None = None,
    pairs_from_group: bool = False,
    split: str = "auto",
    text_column: str | None = None,
    keep_duplicates: bool = False,
    max_bad_fraction: float = 0.5,
    workers: int = 2,
    shard_rows: int = SHARD_ROWS,
    shard_bytes: int = SHARD_BYTES,
) -> IngestResult:
    """Reads sources of one modality into a DATASET, a new one or one that is there already.

    A source that the DATASET holds unchanged is not read again. One that has changed, or is asked for with other
    options, is read again together with all that came after it, so the result is that of a fresh ingest.

    Args:
        sources: Files, folders or archives.
        modality: protein, image or caption.
        out: The DATASET folder.
        labels: CSV ``id,label``; stands above what the source says.
        pairs: CSV ``left_modality,left_id,right_modality,right_id``, added to the pairs that are there.
        pairs_from_group: Each caption's group is a known pair: (what it describes, the caption).
        split: ``auto`` (the source's own splits, else train), a name for all, or shares drawn by hash. Drawn splits
            keep the captions of one group together and never put the same content in two splits.
        text_column: The column or field of the captions, where it has an unusual name.
        keep_duplicates: Keep exact repeats. By default a payload is kept once; a caption once for each group.
        max_bad_fraction: Fail when more than this share of a source's records is bad.
        workers: Threads that read files. The result does not depend on it.
        shard_rows: Most rows in a unit.
        shard_bytes: Most payload bytes in a unit.

    Raises:
        SetClipError: nothing usable in a source, too many bad records, ``out`` not ours or busy, a bad option.
    """
    if modality not in MODALITIES:
        raise SetClipError(
            f"--modality {modality}: no such modality{nearest(modality, MODALITIES)}",
            fix=f"one of: {', '.join(MODALITIES)}",
            exit_code=ExitCode.USAGE,
        )
    kind: Modality = modality
    rule = parse_split(split)
    options = Options(split, labels, text_column, keep_duplicates, max_bad_fraction)
    named = Labels(labels)
    stated = read_pairs(pairs) if pairs is not None else []
    opened = [open_source(path, kind, text_column=text_column) for path in _distinct(sources)]
    with journal.locked(out) as work:
        job = _Job(out, work, shard_rows=shard_rows, shard_bytes=shard_bytes, workers=workers)
        for source in opened:
            job.add(source, kind, options, rule, named)
        job.add_pairs(stated, origin=pairs, from_group=pairs_from_group)
        return job.finish(unused_labels=len(named) - len(named.used))


def _distinct(sources: Iterable[Path]) -> list[Path]:
    return list({path.resolve(): path for path in sources}.values())


def _sha256_of(path: Path) -> str:
    try:
        return atomic.sha256_file(path)
    except OSError as error:
        raise SetClipError(f"{path}: {error.strerror}", fix="check the path") from error


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass
class _Taken:
    """What the DATASET holds of one modality, as far as a new record must know."""

    ids: set[str] = field(default_factory=set)
    split_of: dict[bytes, str] = field(default_factory=dict)  # 16 bytes of the payload's sha256 -> split
    in_group: set[bytes] = field(default_factory=set)  # the same with the group's id hashed in


class _Unit:
    """Rows and rejects since the last unit ended."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Modality, str], list[tuple[object, ...]]] = {}
        self.rejects: list[Reject] = []
        self.repairs: Counter[str] = Counter()
        self.count = 0
        self.payload_bytes = 0


class _Job:
    """One ingest command at work on a DATASET."""

    def __init__(self, out: Path, work: Path, *, shard_rows: int, shard_bytes: int, workers: int) -> None:
        self.out, self.work = out, work
        self.shard_rows, self.shard_bytes, self.workers = shard_rows, shard_bytes, workers
        self.index = open_dataset(out).index if (out / INDEX_NAME).exists() else DatasetIndex(shards=[])
        self.shards = list(self.index.shards)
        self.entries = [dict(entry) for entry in self.index.sources]
        self.pair_entries = [dict(entry) for entry in self.index.pairs]
        self.new: list[dict[str, Any]] = []
        self.unchanged: list[dict[str, Any]] = []
        self.new_rejects: list[Path] = []
        self.pairs: list[Pair] | None = None
        self.pair_rejects: list[Reject] = []
        self.units = journal.read_units(work)
        self.kept_units = 0
        self.taken: dict[Modality, _Taken] | None = None
        self.numbers: Counter[tuple[str, str]] = Counter((shard.modality, shard.split) for shard in self.shards)

    def add(self, source: Source, modality: Modality, options: Options, rule: SplitRule, labels: Labels) -> None:
        """Reads one source, unless the DATASET holds it unchanged."""
        files = source.files()
        described = {
            "path": str(source.path.resolve()),
            "modality": modality,
            "options": options.identity(),
            "files": len(files),
            "fingerprint": _hash([tuple(file) for file in files]),
        }
        for entry in self.entries:
            if entry["path"] == described["path"] and entry["modality"] == modality:
                if all(entry[key] == value for key, value in described.items()) and self._whole(entry):
                    self.unchanged.append(entry)
                    return
                raise SetClipError(
                    f"{source.path}: has changed since it went into {self.out}, or was read with other options",
                    fix="ingest into a new --out",
                )
        tally = self._read(source, described, options, rule, labels)
        entry = {**described, **tally}
        self.entries.append(entry)
        self.new.append(entry)
        self._check_bad(source, entry, options)

    def _whole(self, entry: dict[str, Any]) -> bool:
        """Whether the shards of a source are on disk with their sizes."""
        sizes = {shard.path: shard.bytes for shard in self.shards}
        return all(
            (self.out / path).is_file() and (self.out / path).stat().st_size == sizes.get(path)
            for path in entry["shards"]
        )

    def _read(
        self, source: Source, described: dict[str, Any], options: Options, rule: SplitRule, labels: Labels
    ) -> dict[str, Any]:
        identity = _hash(described)
        base = _hash([self.entries, self.shard_rows, self.shard_bytes])
        done = self._resumable(identity, base)
        finished = [self._account(unit) for unit in done]
        start = done[-1].items if done else 0
        if not (done and done[-1].last):
            taken = self._taken()
            self.taken = taken
            with ThreadPoolExecutor(1) as writer:
                pending: Future[journal.Unit] | None = None
                for rows, items, last in self._units(source, start, taken, rule, labels, options):
                    if pending is not None:
                        finished.append(self._account(pending.result()))
                    names = self._names(rows)
                    pending = writer.submit(self._write, rows, names, source, identity, base, items, last)
                if pending is not None:
                    finished.append(self._account(pending.result()))
        return {
            **merge_tallies([unit.tally for unit in finished]),
            "shards": [shard.path for unit in finished for shard in unit.shards],
        }

    def _resumable(self, identity: str, base: str) -> list[journal.Unit]:
        """The units of this source that an earlier, killed run has finished; forgets what follows them."""
        done: list[journal.Unit] = []
        for unit in self.units[self.kept_units :]:
            if (unit.source, unit.base) != (identity, base) or not all(
                (self.out / shard.path).is_file() and (self.out / shard.path).stat().st_size == shard.bytes
                for shard in unit.shards
            ):
                break
            done.append(unit)
            if unit.last:
                break
        self.kept_units += len(done)
        if not (done and done[-1].last) and len(self.units) > self.kept_units:
            self.units = self.units[: self.kept_units]
        journal.rewrite(self.work, self.units)
        return done

    def _account(self, unit: journal.Unit) -> journal.Unit:
        for shard in unit.shards:
            self.numbers[shard.modality, shard.split] = max(
                self.numbers[shard.modality, shard.split], int(shard.path[-13:-8]) + 1
            )
        self.shards.extend(unit.shards)
        if unit.rejects:
            self.new_rejects.append(self.work / unit.rejects)
        return unit

    def _taken(self) -> dict[Modality, _Taken]:
        """Loads ids and hashes of all rows so far; kept between the sources of one command."""
        if self.taken is not None:
            return self.taken
        taken = {modality: _Taken() for modality in MODALITIES}
        dataset = Dataset(self.out, self.index)
        for shard in self.shards:
            columns = ["id", "sha256", *(["group"] if shard.modality == "caption" else [])]
            rows = dataset.read(shard, columns)
            known = taken[shard.modality]
            digests = [bytes.fromhex(digest)[:16] for digest in rows["sha256"].to_pylist()]
            groups = rows["group"].to_pylist() if "group" in columns else [None] * len(digests)
            known.ids.update(rows["id"].to_pylist())
            for digest, group in zip(digests, groups, strict=True):
                known.split_of.setdefault(digest, shard.split)
                if group is not None:
                    known.in_group.add(_grouped(digest, group))
        return taken

    def _units(
        self,
        source: Source,
        start: int,
        taken: dict[Modality, _Taken],
        rule: SplitRule,
        labels: Labels,
        options: Options,
    ) -> Iterator[tuple[_Unit, int, bool]]:
        """Yields (unit, items of the source so far, whether it is the last)."""
        unit = _Unit()
        items = start
        name = source.path.name
        splits = {shard.split for shard in self.shards}
        for item in source.items(start, self.workers):
            items += 1
            if isinstance(item, Reject):
                unit.rejects.append(item)
            else:
                known = taken[item.modality]
                split = _admit(item, known, rule, keep_duplicates=options.keep_duplicates)
                if isinstance(split, Reject):
                    unit.rejects.append(split)
                else:
                    splits.add(split)
                    if len(splits) > MAX_SPLITS:
                        some = ", ".join(sorted(splits)[:4])
                        raise SetClipError(
                            f"{source.path}: states more than {MAX_SPLITS} splits: {some}, ...",
                            fix="give one with --split train, or draw them with --split train=0.8,test=0.2",
                        )
                    row = (item.id, split, name, item.sha256, labels.of(item), item.payload, *item.columns)
                    unit.rows.setdefault((item.modality, split), []).append(row)
                    unit.count += 1
                    unit.payload_bytes += len(item.payload)
                    if item.repairs:
                        unit.repairs.update(item.repairs)
            if (
                unit.count >= self.shard_rows
                or unit.payload_bytes >= self.shard_bytes
                or len(unit.rejects) >= SHARD_ROWS
            ):
                yield unit, items, False
                unit = _Unit()
        yield unit, items, True

    def _names(self, unit: _Unit) -> dict[tuple[Modality, str], str]:
        names = {}
        for modality, split in sorted(unit.rows):
            names[modality, split] = f"{modality}/{split}-{self.numbers[modality, split]:05d}.parquet"
            self.numbers[modality, split] += 1
        return names

    def _write(
        self,
        unit: _Unit,
        names: dict[tuple[Modality, str], str],
        source: Source,
        identity: str,
        base: str,
        items: int,
        last: bool,
    ) -> journal.Unit:
        """Writes a unit's shards and rejects, then its line in the journal."""
        shards = []
        tally: dict[str, Any] = {
            "read": sum(len(rows) for rows in unit.rows.values()) + len(unit.rejects),
            "rejects": dict(Counter(_kind(reject.reason) for reject in unit.rejects)),
            "bad": sum(reject.bad for reject in unit.rejects),
            "repairs": dict(unit.repairs),
            "rows": {},
        }
        for (modality, split), relative in names.items():
            rows = unit.rows[modality, split]
            schema = SCHEMAS[modality]
            columns = [
                pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            table = pa.Table.from_arrays(columns, schema=schema)
            shards.append(write_shard(self.out, relative, table, modality=modality, split=split))
            tally["rows"].setdefault(modality, {})[split] = count_rows(table)
        part = None
        if unit.rejects:
            part = f"rejects-{identity[:16]}-{items:012d}.parquet"
            _write_rejects(self.work / part, source.path.name, unit.rejects)
        written = journal.Unit(
            source=identity, base=base, items=items, shards=shards, rejects=part, tally=tally, last=last
        )
        journal.append(self.work, written)
        return written

    def _check_bad(self, source: Source, entry: dict[str, Any], options: Options) -> None:
        read, bad = entry["read"], entry["bad"]
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in Counter(entry["rejects"]).most_common(3))
        if not read:
            raise SetClipError(
                f"{source.path}: no {entry['modality']} records in it", fix="check that this is the file you meant"
            )
        if bad > options.max_bad_fraction * read or bad == read:
            self._write_all_rejects()
            raise SetClipError(
                f"{source.path}: {bad:,} of {read:,} records are bad ({reasons}); all are in "
                f"{self.out / 'rejects.parquet'}",
                fix="mend the source"
                + (f", or pass --max-bad-fraction {min(1.0, bad / read + 0.01):.2f}" if bad < read else ""),
            )
        if not entry["rows"] and not set(entry["rejects"]) & {DUPLICATE, REPEATED_ID, OTHER_SPLIT}:
            raise SetClipError(
                f"{source.path}: no {entry['modality']} records in it ({reasons})",
                fix="check that this is the file you meant",
            )

    def add_pairs(self, stated: list[StatedPair], *, origin: Path | None, from_group: bool) -> None:
        """Resolves the stated pairs against the rows and joins them to those the DATASET has."""
        origins: list[dict[str, Any]] = []
        if origin is not None:
            origins.append({"from": str(origin.resolve()), "sha256": _sha256_of(origin)})
        if from_group:
            origins.append({"from": "group"})
        fresh = [entry for entry in origins if entry not in self.pair_entries]
        if not fresh and not (from_group and self.new):
            return
        dataset = Dataset(self.out, DatasetIndex(shards=self.shards))
        present = dataset.modalities()
        if from_group:
            stated = [*stated, *self._group_pairs(dataset, present)]
        needed = {side for pair in stated for side in (pair.left_modality, pair.right_modality)}
        for modality in sorted(needed):
            dataset.shards(modality)  # says which ingest is missing
        known = {modality: _known(dataset, modality) for modality in needed}
        found = dict.fromkeys(Dataset(self.out, self.index).pairs())
        for pair in resolve(stated, known):
            if isinstance(pair, Pair):
                found[pair] = None
            else:
                self.pair_rejects.append(Reject(*pair))
        self.pairs = list(found)
        self.pair_entries = [*self.pair_entries, *fresh]

    def _group_pairs(self, dataset: Dataset, present: list[Modality]) -> Iterator[StatedPair]:
        if "caption" not in present or len(present) < 2:
            raise SetClipError(
                f"{self.out}: --pairs-from-group needs captions and what they describe, has {', '.join(present)}",
                fix="ingest the other modality first, then this source with --pairs-from-group",
            )
        rows = dataset.rows("caption", None, ["id", "group"])
        captions = list(zip(rows["id"].to_pylist(), rows["group"].to_pylist(), strict=True))
        if not any(group for _, group in captions):
            raise SetClipError(f"{self.out}: no caption has a group", fix="give the captions a 'group' field")
        others = [modality for modality in present if modality != "caption"]
        known = {modality: _known(dataset, modality) for modality in others}
        for modality in others:
            if len(others) == 1:
                yield from pairs_of_groups(captions, modality)
            else:
                mine = [(identifier, group) for identifier, group in captions if group and known[modality].find(group)]
                yield from pairs_of_groups(mine, modality)

    def finish(self, *, unused_labels: int) -> IngestResult:
        """Writes pairs.parquet, rejects.parquet and, last, dataset.json."""
        changed = bool(self.new) or self.pairs is not None
        if changed:
            files = dict(self.index.files)
            if self.pairs is not None:
                table = pa.Table.from_pylist([pair._asdict() for pair in self.pairs], schema=PAIRS_SCHEMA)
                with atomic.atomic_path(self.out / "pairs.parquet") as temporary:
                    pq.write_table(table, temporary, compression="zstd")
                files["pairs.parquet"] = atomic.sha256_file(self.out / "pairs.parquet")
            self._write_all_rejects()
            files["rejects.parquet"] = atomic.sha256_file(self.out / "rejects.parquet")
            rejects = Counter(self.index.rejects)
            for entry in self.new:
                rejects.update(entry["rejects"])
            rejects.update(_kind(reject.reason) for reject in self.pair_rejects)
            self.index = DatasetIndex(
                shards=sorted(self.shards, key=lambda shard: shard.path),
                rejects=dict(sorted(rejects.items())),
                sources=self.entries,
                manifests=self.index.manifests,
                pairs=self.pair_entries,
                files=files,
            )
            self._remove_strays()
            atomic.write_json(self.out / INDEX_NAME, self.index.model_dump(mode="json"))
        journal.clear(self.work)
        return IngestResult(
            out=self.out,
            new=self.new,
            unchanged=self.unchanged,
            index=self.index,
            pairs=len(Dataset(self.out, self.index).pairs()),
            pair_rejects=dict(Counter(_kind(reject.reason) for reject in self.pair_rejects)),
            unused_labels=unused_labels if self.new else 0,
        )

    def _write_all_rejects(self) -> None:
        """What the finished DATASET has rejected before, then this command's parts in their order."""
        target = self.out / "rejects.parquet"
        kept = sum(self.index.rejects.values())
        tables = [pq.read_table(target).slice(0, kept)] if kept and target.exists() else []
        tables += [pq.read_table(part) for part in self.new_rejects]
        tables.append(_rejects_table("pairs", self.pair_rejects))
        with atomic.atomic_path(target) as temporary:
            pq.write_table(pa.concat_tables(tables), temporary, compression="zstd")

    def _remove_strays(self) -> None:
        """Shards of a killed run that no longer belong: not in the index that is about to be written."""
        listed = {shard.path for shard in self.shards}
        for modality in MODALITIES:
            for path in (self.out / modality).glob("*-[0-9][0-9][0-9][0-9][0-9].parquet"):
                if f"{modality}/{path.name}" not in listed:
                    path.unlink()


def _admit(record: Record, known: _Taken, rule: SplitRule, *, keep_duplicates: bool) -> str | Reject:
    """Decides whether a record is kept, notes it in ``known``, and returns its split."""
    digest = bytes.fromhex(record.sha256)[:16]
    grouped = _grouped(digest, record.group) if record.group is not None else None
    earlier = known.split_of.get(digest)
    repeated = earlier is not None if grouped is None else grouped in known.in_group
    if repeated and not keep_duplicates:
        return Reject(record.id, DUPLICATE, bad=False)
    if record.id in known.ids:
        return Reject(record.id, REPEATED_ID if not repeated else DUPLICATE, bad=not repeated)
    if rule.drawn:
        split = rule.draw(record.group if record.group is not None else record.id)
        if earlier is not None and earlier != split:
            if record.group is not None:
                return Reject(record.id, OTHER_SPLIT, bad=False)
            split = earlier
    else:
        split = rule.fixed or record.split or "train"
        if not SPLIT_NAME.fullmatch(split):
            return Reject(record.id, "split's name has other characters than letters, digits, '-' and '_'")
    known.ids.add(record.id)
    known.split_of.setdefault(digest, split)
    if grouped is not None:
        known.in_group.add(grouped)
    return split


def _grouped(digest: bytes, group: str) -> bytes:
    return hashlib.blake2b(digest + group.encode(), digest_size=16).digest()


def _kind(reason: str) -> str:
    """A reason without what is particular to one record, for counting."""
    return reason.partition(": ")[0]


def _rejects_table(source: str, rejects: list[Reject]) -> pa.Table:
    return pa.table(
        {
            "source": [source] * len(rejects),
            "location": [reject.location for reject in rejects],
            "reason": [reject.reason for reject in rejects],
        },
        schema=REJECTS_SCHEMA,
    )


def _write_rejects(path: Path, source: str, rejects: list[Reject]) -> None:
    with atomic.atomic_path(path) as temporary:
        pq.write_table(_rejects_table(source, rejects), temporary, compression="zstd")


def _known(dataset: Dataset, modality: Modality) -> Known:
    rows = dataset.rows(modality, None, ["id", "split"])
    return Known(dict(zip(rows["id"].to_pylist(), rows["split"].to_pylist(), strict=True)))
