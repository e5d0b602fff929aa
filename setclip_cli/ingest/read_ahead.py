"""Sources that workers read while earlier ones are read: processes of this machine, or the workers of a Ray cluster.

A worker reads a whole source as if no rows were before it, and writes its batches into the work folder of the ingest:

DATASET/.ingest/ahead/<key>/<modality>/<split>-00000.parquet, rejects-*.parquet
DATASET/.ingest/ahead/<key>/answers.arrow, left-out.parquet    see `answers`
DATASET/.ingest/ahead/<key>/read.json      written last: the batches

The key is a hash of all that decides these batches. When its turn comes, the ingest decides again about the rows that
the rows before the source may change (`decide_again`). If nothing changes, it takes the shards as they are, and else it
cuts new ones from them. So the bytes are always those of an ingest that reads one source after the other.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict

from setclip_cli import console
from setclip_cli.dataset.modality import Modality
from setclip_cli.dataset.schemas import ModalityInfo
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.files.documents import read_json, write_document
from setclip_cli.ingest.answers import ANSWERS_NAME, LEFT_OUT_NAME, write_left_out, writing_answers
from setclip_cli.ingest.batches import ShardNames, write_batch
from setclip_cli.ingest.contents import is_whole
from setclip_cli.ingest.dedup import Dedup, KeepRules
from setclip_cli.ingest.earlier_sources import EarlierSources
from setclip_cli.ingest.labels import Labels
from setclip_cli.ingest.progress import WrittenBatch, rejects_name, sha256_of_rejects
from setclip_cli.ingest.source_batches import Limits, batches_of, described, hash_of, info_of, rules_of
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.splits import parse_split
from setclip_cli.places import call, named

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from types import TracebackType

    from setclip_cli.ingest.contents import Contents
    from setclip_cli.ingest.options import IngestOptions, SourceSettings
    from setclip_cli.ingest.progress import Progress

FOLDER = "ahead"
_READ = "read.json"


class SourceRead(BaseModel):
    """read.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batches: list[WrittenBatch]  # with shards below the folder of the file
    shards: list[str]  # the paths of these shards, by the numbers that the answers have
    files: dict[str, str]  # the answers and the rows left out: name -> sha256


@dataclass(frozen=True)
class SourceToRead:
    """What a worker needs to read one source."""

    path: Path
    name: str  # what records call the path
    identity: str  # hash of the source's part of its entry in dataset.json
    settings: SourceSettings
    rules: KeepRules
    info: ModalityInfo
    limits: Limits
    labels: Path | None  # a file that `Labels.write` wrote
    work: Path  # the work folder of the ingest

    @property
    def key(self) -> str:
        """What tells one reading of a source from others."""
        labels = None if self.labels is None else self.labels.name
        return hash_of([self.identity, repr(self.rules), repr(self.limits), labels])[:32]

    @property
    def folder(self) -> Path:
        """Where the batches go."""
        return self.work / FOLDER / self.key


def read_source_ahead(job: SourceToRead) -> tuple[str, SourceRead | None]:
    """Reads one source in a worker; nothing if it cannot be read, because the ingest itself then says why.

    Returns:
        The identity of the source, and its batches.
    """
    try:
        return job.identity, _whole(job) or _read(job)
    except (SetClipError, UnicodeEncodeError):  # a text that Arrow cannot hold may be in a record that is left out
        return job.identity, None


def _whole(job: SourceToRead) -> SourceRead | None:
    """What a worker of a killed run has read, if all of it is on disk as it was written."""
    path = job.folder / _READ
    if not path.is_file():
        return None
    try:
        read = read_json(path, SourceRead, fix="remove it")
    except SetClipError:
        return None
    shards = all(is_whole(job.folder, shard) for batch in read.batches for shard in batch.shards)
    rejects = all(
        batch.rejects is None or sha256_of_rejects(job.folder, batch.rejects) == batch.rejects_sha256
        for batch in read.batches
    )
    files = all(_has_hash(job.folder / name, sha256) for name, sha256 in read.files.items())
    return read if shards and rejects and files else None


def _has_hash(path: Path, sha256: str) -> bool:
    return path.is_file() and atomic.sha256_file(path) == sha256


def _read(job: SourceToRead) -> SourceRead:
    if job.name != str(job.path.resolve()):
        call(job.path.resolve(), job.name)
    source = open_source(job.path, job.settings)
    labels = Labels() if job.labels is None else _labels(job.labels)
    numbers: dict[tuple[Modality, str], int] = {}
    batches, paths = list[WrittenBatch](), list[str]()
    with writing_answers(job.folder, job.rules, job.limits) as log:
        found = batches_of(source, job.settings, job.rules, job.info, labels, Dedup(), job.limits, log=log)
        for batch, records, last in found:
            names: ShardNames = {}
            for modality, split in batch.parts():
                number = numbers[modality, split] = numbers.get((modality, split), -1) + 1
                names[modality, split] = f"{modality}/{split}-{number:05d}.parquet"
            rejects = rejects_name(job.identity, records)
            about = {str(job.settings.modality): job.info}
            to = job.folder / rejects
            shards, counts = write_batch(batch, names, job.path.name, job.folder, to, about, log=log)
            paths += [names[str(job.settings.modality), split] for split in log.end_batch()]
            written = WrittenBatch(
                source=job.identity,
                base="",  # the ingest knows it
                records=records,
                shards=shards,
                rejects=rejects if batch.rejects else None,
                rejects_sha256=sha256_of_rejects(job.folder, rejects) if batch.rejects else None,
                counts=counts,
                last=last,
            )
            batches.append(written)
    files = [ANSWERS_NAME, *([LEFT_OUT_NAME] if write_left_out(log, job.folder, job.info) else [])]
    hashes_of_files = {name: atomic.sha256_file(job.folder / name) for name in files}
    read = SourceRead(batches=batches, shards=paths, files=hashes_of_files)
    write_document(job.folder / _READ, read.model_dump(mode="json", by_alias=True), sync=False)
    return read


@lru_cache(maxsize=1)
def _labels(path: Path) -> Labels:
    return Labels.read(path)


class ReadAhead:
    """The sources that workers read, in the order in which the ingest asks for them.

    Args:
        jobs: The sources.
        options: Where they are read.
    """

    def __init__(self, jobs: Sequence[SourceToRead], options: IngestOptions) -> None:
        self._jobs = {job.identity: job for job in jobs}
        self._read: dict[str, SourceRead | None] = {}
        self._results = _results(jobs, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._results.close()

    def of(self, identity: str, rules: KeepRules) -> tuple[Path, SourceRead] | None:
        """The batches of a source and their folder, as soon as they are there; None if no worker could read it.

        Args:
            identity: That of the source.
            rules: Those that its place among the sources gives it.

        Raises:
            SetClipError: the Ray cluster cannot be reached, or has lost a worker too often.
        """
        job = self._jobs.get(identity)
        if job is None or job.rules != rules:
            return None
        while identity not in self._read:
            found, read = next(self._results)
            self._read[found] = read
        found_read = self._read[identity]
        return None if found_read is None else (job.folder, found_read)


def _results(
    jobs: Sequence[SourceToRead], options: IngestOptions
) -> Generator[tuple[str, SourceRead | None], None, None]:
    if options.engine == "ray":
        from setclip_cli.cluster import run_on_cluster

        with closing(run_on_cluster(read_source_ahead, jobs)) as results:
            yield from results
        return
    from setclip_cli.processes import run_in_processes

    with closing(run_in_processes(read_source_ahead, jobs, processes=options.workers)) as running:
        for finished in running:  # a process that was killed has no result: the ingest reads its source itself
            yield finished.results[0] if finished.results else (finished.job.identity, None)


def sources_to_read(
    paths: Sequence[Path],
    contents: Contents,
    progress: Progress,
    options: IngestOptions,
    labels: Labels,
    limits: Limits,
) -> list[SourceToRead]:
    """The sources that workers can read: those that the DATASET does not have, if they do not need earlier rows."""
    if options.engine == "local":
        return []
    if why := _needs_earlier_rows(options, paths):
        console.note(f"{argument('engine')} {options.engine}: the sources are read one after the other: {why}")
        return []
    jobs: list[SourceToRead] = []
    earlier, known = EarlierSources(contents.sources), contents.known(str(options.modality))
    file = None
    for path in paths:
        source = open_source(path, options)
        info = info_of(source, options, known)
        known = known or info
        entry = described(source, options, info)
        if contents.position_of(entry) is not None:
            continue
        identity = hash_of(entry)
        if not progress.has_begun(identity):
            if len(labels) and file is None:
                labels.match()
                file = labels.write(progress.folder)
            rules, name = rules_of(source, options, earlier), named(path.resolve())
            jobs.append(SourceToRead(path, name, identity, options, rules, info, limits, file, progress.folder))
        earlier.add(entry)
    return jobs if len(jobs) > 1 else []


def _needs_earlier_rows(options: IngestOptions, paths: Sequence[Path]) -> str:
    """Why the sources must be read one after the other; empty if they need not."""
    rule = parse_split(options.split)
    if options.near_duplicates != "keep":
        return f"{argument('near_duplicates')} {options.near_duplicates} compares each image with all before it"
    if rule.as_captions:
        return f"{argument('split')} as-captions needs all captions"
    if rule.drawn and options.split_by == "cluster":
        return f"{argument('split_by')} cluster compares the proteins of a source with each other"
    if len(paths) == 1:
        return "there is one, and a source is read by one worker"
    return ""
