"""What a DATASET holds while an ingest adds to it: shards, sources, rejects; and dataset.json, written last.

DATASET/.ingest/pairs.parquet, rejects.parquet   they wait here until dataset.json lists them, so that a kill at any
                                                 moment leaves a whole DATASET: the earlier one or the new one
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from setclip_cli.dataset.dataset import (
    INDEX_NAME,
    PAIRS_NAME,
    REJECTS_NAME,
    WORK_NAME,
    Dataset,
    DatasetIndex,
    Shard,
    open_dataset,
)
from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality
from setclip_cli.dataset.schemas import PAIRS_SCHEMA, ModalityInfo
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic, hashes, leftovers
from setclip_cli.files.documents import write_document
from setclip_cli.ingest.batches import rejects_table, write_table
from setclip_cli.ingest.dedup import DUPLICATE
from setclip_cli.ingest.earlier_sources import EarlierSources, source_key
from setclip_cli.places import named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from setclip_cli.ingest.pairing import PairTable
    from setclip_cli.ingest.sources.base import Reject

    BesideName = Literal["pairs.parquet", "rejects.parquet"]


class Contents:
    """The contents of a DATASET folder: those that dataset.json lists, and those that this ingest adds.

    Attributes:
        index: dataset.json as it was last written.
        shards: All shards on disk that count.
        sources: An entry of dataset.json for each source that is read.
        earlier: What the next source must know of these sources.
        new: Those of the entries that this ingest added.
        rows_removed: Whether this ingest leaves out rows that the DATASET had, because their source is read again.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.index = open_dataset(out).index if (out / INDEX_NAME).exists() else DatasetIndex(shards=[])
        self.shards = list(self.index.shards)
        self.sources = [dict(entry) for entry in self.index.sources]
        self._modalities = dict(self.index.modalities)
        self.earlier = EarlierSources(self.sources)
        self._listed: dict[str, Shard] = {}  # path -> shard
        self._numbers: Counter[tuple[Modality, str]] = Counter()  # of the next shard of a modality and split
        self._know_shards(self.shards)
        self.new: list[dict[str, Any]] = []
        self.rows_removed = False
        self._new_rejects: list[Path] = []
        self._files = dict(self.index.files)
        self._publish()

    def dataset(self) -> Dataset:
        """The DATASET with all rows so far."""
        index = DatasetIndex(shards=self.shards, sources=self.sources, files=self._files, modalities=self._modalities)
        return Dataset(self.out, index)

    def know(self, modality: Modality, info: ModalityInfo, source: Path) -> None:
        """Takes up a modality of the next source.

        Raises:
            SetClipError: its earlier rows are of another kind, or vectors of another width, type or encoder.
        """
        known = self._modalities.get(modality)
        if known is not None and known != info:
            key = next(key for key, value in known if value != getattr(info, key))
            before, now = getattr(known, key), getattr(info, key)
            fixes = {"dtype": f"write it with array.astype({before!r})", "encoder": "state the same one if it is"}
            another = f"choose another name for these rows with {argument('modality')}"
            raise SetClipError(
                f"{source}: its rows have {key} = {now}, and the {modality} rows before it in {self.out} have {before}",
                fix=f"{fixes[key]}; or {another}" if key in fixes else another,
            )
        if modality not in KINDS_OF_NAMES:
            self._modalities[modality] = info

    def known(self, modality: Modality) -> ModalityInfo | None:
        """What is known about a modality whose name does not say its kind, from the sources before the next one."""
        return self._modalities.get(modality)

    def about(self, modality: Modality) -> ModalityInfo:
        """What is known about a modality that was taken up, or whose name says its kind."""
        return self._modalities.get(modality) or ModalityInfo(kind=KINDS_OF_NAMES[modality])

    def in_order(self, paths: list[Path]) -> list[Path]:
        """The paths with those first that are sources of the DATASET, in its order."""
        places = {entry["path"]: place for place, entry in reversed([*enumerate(self.sources)])}
        return sorted(paths, key=lambda path: places.get(named(path.resolve()), len(places)))

    def position_of(self, described: dict[str, Any]) -> int | None:
        """The place of the entry with the path and modality of ``described`` among the sources."""
        return self.earlier.places.get(source_key(described))

    def change(self, entry: dict[str, Any], described: dict[str, Any]) -> str:
        """What has changed since an entry was written, the source or a shard of it; empty if nothing has."""
        if any(entry[key] != value for key, value in described.items() if key != "options"):
            return f"{entry['path']}: changed since {self.out} was made"
        before, now = entry["options"], described["options"]
        if other := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
            named = ", ".join(dict.fromkeys(key.removesuffix("_sha256") for key in other))
            return f"{entry['path']}: was read into {self.out} with other options ({named})"
        shard = next((path for path in entry["shards"] if not is_whole(self.out, self._listed[path])), None)
        return "" if shard is None else f"{self.out / shard}: has changed since ingest wrote it from {entry['path']}"

    def add_batch(self, shards: Iterable[Shard], rejects: Path | None) -> None:
        """Adds the shards of a batch, and the file that holds its rejects."""
        added = list(shards)
        self.shards.extend(added)
        self._know_shards(added)
        if rejects is not None:
            self._new_rejects.append(rejects)

    def add_source(self, entry: dict[str, Any]) -> None:
        self.sources.append(entry)
        self.new.append(entry)
        self.earlier.add(entry)

    def remove_sources(self, position: int) -> None:
        """Leaves out the sources from ``position`` on. dataset.json and their shards stay as they are until the end.

        So the DATASET is the earlier one if what takes their place cannot be read.
        """
        self.sources = self.sources[:position]
        paths = {path for entry in self.sources for path in entry["shards"]}
        self.shards = [shard for shard in self.shards if shard.path in paths]
        self.rows_removed = True
        self.earlier = EarlierSources(self.sources)
        self._modalities = _modalities_of(self.sources)
        self._listed.clear()
        self._numbers.clear()
        self._know_shards(self.shards)

    def _know_shards(self, shards: Iterable[Shard]) -> None:
        """Keeps up what is asked for each source, so that many sources do not look at all shards each."""
        for shard in shards:
            self._listed[shard.path] = shard
            key = shard.modality, shard.split
            self._numbers[key] = max(self._numbers[key], _number(shard) + 1)

    def splits(self) -> set[str]:
        """The splits of all shards that count."""
        return {split for _, split in self._numbers}

    def next_numbers(self) -> Counter[tuple[Modality, str]]:
        """(modality, split) -> the number of its next shard. A shard that dataset.json lists is never written over."""
        numbers = Counter(self._numbers)
        for shard in self.index.shards if self.rows_removed else ():
            key = shard.modality, shard.split
            numbers[key] = max(numbers[key], _number(shard) + 1)
        return numbers

    def _leave_out_removed(self) -> None:
        """Takes the sources that were left out from dataset.json, so that their shards can be written over.

        A kill before `finish` ends leaves a whole DATASET without these sources; pending.json then names them.
        """
        kept = self._kept()
        keys = {source_key(entry) for entry in kept}
        removed = [entry for entry in self.index.sources if source_key(entry) not in keys]
        paths = {path for entry in kept for path in entry["shards"]}
        of_sources, of_pairs = self._indexed_rejects()
        counts = Counter(self.index.rejects)
        counts.subtract(_reject_counts(removed))
        kept_rejects = of_sources.slice(0, _reject_counts(kept).total())
        self._replace(REJECTS_NAME, pa.concat_tables([kept_rejects, of_pairs]))
        shards = [shard for shard in self.shards if shard.path in paths]
        self._write_index(
            shards=shards,
            sources=kept,
            rejects=dict(sorted((+counts).items())),
            modalities=_modalities_of(kept),
        )

    def _kept(self) -> list[dict[str, Any]]:
        """The sources that are not read by this ingest."""
        new = {source_key(entry) for entry in self.new}
        return [entry for entry in self.sources if source_key(entry) not in new]

    def _number_shards(self) -> None:
        """Gives the new shards the names of a fresh ingest: they had others while dataset.json listed the old ones."""
        paths = {path for entry in self._kept() for path in entry["shards"]}
        numbers = Counter((shard.modality, shard.split) for shard in self.shards if shard.path in paths)
        new_path: dict[str, str] = {}
        for place, shard in enumerate(self.shards):
            if shard.path in paths:
                continue
            path = f"{shard.modality}/{shard.split}-{numbers[shard.modality, shard.split]:05d}.parquet"
            numbers[shard.modality, shard.split] += 1
            if path != shard.path:
                atomic.move(self.out / shard.path, self.out / path)
                self.shards[place] = shard.model_copy(update={"path": path})
            new_path[shard.path] = path
        for entry in self.new:
            entry["shards"] = [new_path[path] for path in entry["shards"]]

    def finish(self, pairs: PairTable, manifest: dict[str, Any] | None) -> None:
        """Writes pairs.parquet, rejects.parquet and, last, dataset.json; nothing if nothing has changed."""
        manifests = self.index.manifests
        if manifest is not None and manifest not in manifests:
            manifests = [*manifests, manifest]
        if not (self.new or pairs.changed or manifests != self.index.manifests):
            self._remove_leftovers()
            return
        if self.rows_removed:
            self._leave_out_removed()
        self._number_shards()
        if pairs.changed:
            rows = [pair._asdict() for pair in pairs.pairs]
            self._replace(PAIRS_NAME, pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA))
        of_pairs = self._not_listed(pairs.rejects)
        self._write_rejects(of_pairs)
        counts = Counter(self.index.rejects) + _reject_counts(self.new) + Counter(reject.kind for reject in of_pairs)
        self._write_index(
            shards=sorted(self.shards, key=lambda shard: shard.path),
            rejects=dict(sorted(counts.items())),
            sources=self.sources,
            modalities=dict(sorted(self._modalities.items())),
            manifests=manifests,
            pairs=pairs.origins,
        )
        self._remove_leftovers()

    def list_rejects_of_failure(self) -> None:
        """Adds the new rejects to rejects.parquet although the ingest fails; a DATASET that was there stays whole."""
        self._write_rejects(None)
        if (self.out / INDEX_NAME).exists():
            self._write_index()
        else:
            atomic.move(self.out / WORK_NAME / REJECTS_NAME, self.out / REJECTS_NAME)

    def first_new_reject(self, reason: str) -> str | None:
        """The location of the first record that this ingest rejected for a reason."""
        for path in self._new_rejects:
            for row in pq.read_table(path).to_pylist():
                if row["reason"] == reason:
                    return str(row["location"])
        return None

    def repeats(self, modality: Modality) -> list[str]:
        """What the sources call the rows of a modality that were left out, because another has the same content."""
        table = pa.concat_tables([self._indexed_rejects()[0], *(pq.read_table(path) for path in self._new_rejects)])
        kept = len(self.sources) - len(self.new)  # of the sources in dataset.json, the first ones
        found, start = [], 0
        for place, entry in enumerate([*self.index.sources, *self.new]):
            count, removed = _reject_counts([entry]).total(), kept <= place < len(self.index.sources)
            if entry["modality"] == modality and not removed and DUPLICATE in entry["rejects"]:
                rejects = table.slice(start, count)
                found += rejects.filter(pc.equal(rejects["reason"], DUPLICATE))["location"].to_pylist()
            start += count
        return found

    def _write_index(self, **changes: Any) -> None:
        """Writes dataset.json with the changes, and with the hashes of the two files beside it."""
        self.index = self.index.model_copy(update={**changes, "files": dict(self._files)})
        write_document(self.out / INDEX_NAME, self.index.as_json())
        self._publish()

    def _not_listed(self, of_pairs: Iterable[Reject]) -> list[Reject]:
        """Those of the pairs' rejects that an earlier ingest of the same pairs has not listed already."""
        table = self._indexed_rejects()[1]
        listed = set(zip(table["location"].to_pylist(), table["reason"].to_pylist(), strict=True))
        return [each for each in dict.fromkeys(of_pairs) if (each.location, each.reason) not in listed]

    def _write_rejects(self, of_new_pairs: list[Reject] | None) -> None:
        """Rejects of the sources in their order, then those of the pairs; last those of a command that failed."""
        of_sources, of_pairs = self._indexed_rejects()
        new = [pq.read_table(path) for path in self._new_rejects]
        if of_new_pairs is None:
            tables = [of_sources, of_pairs, *new]
        else:
            tables = [of_sources, *new, of_pairs, rejects_table("pairs", of_new_pairs)]
        self._replace(REJECTS_NAME, pa.concat_tables(tables))

    def _replace(self, name: BesideName, table: pa.Table) -> None:
        """Writes pairs.parquet or rejects.parquet. It gets its place when dataset.json lists it."""
        path = self.out / WORK_NAME / name
        write_table(path, table)
        self._files[name] = atomic.sha256_file(path)

    def _publish(self) -> None:
        """Puts pairs.parquet and rejects.parquet in their place if that has not been done yet.

        Raises:
            SetClipError: dataset.json lists such a file, and it is missing or has changed.
        """
        for name, sha256 in self.index.files.items():
            path = self.out / name
            if path.is_file() and atomic.sha256_file(path) == sha256:
                continue
            new = self.out / WORK_NAME / name
            if new.is_file() and atomic.sha256_file(new) == sha256:
                atomic.move(new, path)
            hashes.require_unchanged(
                path,
                sha256,
                since="ingest",
                listed_in=INDEX_NAME,
                fix="restore the file from a copy, or run the `setclip ingest` commands again with a new folder",
            )

    def _indexed_rejects(self) -> tuple[pa.Table, pa.Table]:
        """The rows of rejects.parquet that the index counts: those of its sources, those of its pairs."""
        total, of_sources = sum(self.index.rejects.values()), _reject_counts(self.index.sources).total()
        if not total:
            return rejects_table("", []), rejects_table("", [])
        table = pq.read_table(self.out / REJECTS_NAME)
        return table.slice(0, of_sources), table.slice(of_sources, total - of_sources)

    def _remove_leftovers(self) -> None:
        """Removes half-written files of killed runs, and shards of a source that was read again."""
        listed = {shard.path for shard in self.shards}
        for half_written in [*self.out.glob(".*.tmp"), *self.out.glob("*/.*.tmp")]:
            if leftovers.is_temporary(half_written.name):
                leftovers.remove(half_written)
        for modality in {*KINDS_OF_NAMES, *self._modalities, *self.index.modalities}:
            for path in (self.out / modality).glob("*-[0-9][0-9][0-9][0-9][0-9].parquet"):
                if f"{modality}/{path.name}" not in listed:
                    atomic.remove_file(path)


def _modalities_of(entries: Iterable[dict[str, Any]]) -> dict[Modality, ModalityInfo]:
    """The modalities whose names do not say their kind, as the entries of dataset.json describe them."""
    return {entry["modality"]: ModalityInfo(**entry["about"]) for entry in entries if "about" in entry}


def _number(shard: Shard) -> int:
    return int(shard.path.removesuffix(".parquet").rpartition("-")[2])


def is_whole(out: Path, shard: Shard) -> bool:
    """Whether a shard is on disk as it was written."""
    try:
        return hashes.is_unchanged(out / shard.path, shard.sha256)
    except OSError:
        return False


def _reject_counts(entries: Iterable[dict[str, Any]]) -> Counter[str]:
    """Rejects by reason over entries of dataset.json."""
    counts: Counter[str] = Counter()
    for entry in entries:
        counts.update(entry["rejects"])
    return counts
