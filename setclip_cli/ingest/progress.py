"""What an ingest has finished so far, so that a killed one continues where it stopped.

DATASET/.lock                    held while an ingest runs; a crash frees it
DATASET/.ingest/journal.jsonl    one WrittenBatch a line, added and fsynced after its shards are on disk
DATASET/.ingest/pending.json     the sources to read again if an ingest is stopped while it replaces their shards
DATASET/.ingest/rejects-*.parquet
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from setclip_cli.dataset.dataset import INDEX_NAME, WORK_NAME, Shard
from setclip_cli.files import atomic
from setclip_cli.files.documents import read_json, signed, unsigned, write_document
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.ingest.contents import is_whole
from setclip_cli.ingest.earlier_sources import source_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class WrittenBatch(BaseModel):
    """Consecutive records of one source, whose shards are all on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    source: str  # hash of the path, settings and file stamps of its source
    base: str  # hash of the sources that the DATASET held before it
    records: int = Field(validation_alias="items", serialization_alias="items")  # up to its end
    shards: list[Shard]
    rejects: str | None = Field(pattern=r"^rejects-[0-9a-f]{16}-[0-9]{12}\.parquet$")  # a file in the work folder
    rejects_sha256: str | None = None  # of that file; None also in a journal of an earlier version
    counts: dict[str, Any] = Field(validation_alias="tally", serialization_alias="tally")
    last: bool  # the source ends here


def rejects_name(source: str, records: int) -> str:
    """The name of the file with the rejects of a batch.

    Args:
        source: Hash of its source.
        records: Those of the source up to its end.
    """
    return f"rejects-{source[:16]}-{records:012d}.parquet"


def sha256_of_rejects(folder: Path, name: str) -> str | None:
    """The hash of a file of rejects; None if it is not there."""
    path = folder / name
    return atomic.sha256_file(path) if path.is_file() else None


class Pending(BaseModel):
    """pending.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: list[dict[str, Any]]  # entries of dataset.json


class Progress:
    """The batches that this ingest and a killed one before it have written, and the sources still to read again.

    Args:
        folder: The work folder, which is removed when the DATASET is finished.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._journal, self._pending = folder / "journal.jsonl", folder / "pending.json"
        self._as_read = True  # whether the journal on disk holds these batches and nothing else
        self._batches = self._read_journal()
        self._used = 0  # batches that are part of the DATASET of this run
        self.to_read_again: dict[tuple[str, str], dict[str, Any]] = {}  # path and modality -> entry of dataset.json
        if self._pending.exists():
            fix = "run the `setclip ingest` commands again with a new folder"
            pending = read_json(self._pending, Pending, fix=fix).sources
            self.to_read_again = {source_key(entry): entry for entry in pending}

    def _read_journal(self) -> list[WrittenBatch]:
        """The batches on record, up to the first line that a kill left half-written or that has changed."""
        batches: list[WrittenBatch] = []
        self._as_read = self._journal.exists()
        for line in self._journal.read_bytes().splitlines(keepends=True) if self._as_read else []:
            try:
                content, unchanged = unsigned(line)
                batch = WrittenBatch.model_validate_json(json.dumps(content))
            except (ValueError, RecursionError):  # a ValidationError is a ValueError
                unchanged = False
            self._as_read = unchanged and line.endswith(b"\n")
            if not unchanged:
                break
            batches.append(batch)
        return batches

    def has_begun(self, source: str) -> bool:
        """Whether a killed run has written batches of a source. Whether they can be used is for `resume` to say."""
        return any(batch.source == source for batch in self._batches[self._used :])

    def resume(self, source: str, base: str, out: Path) -> list[WrittenBatch]:
        """The batches of a source that a killed run has written into ``out``; what follows them is forgotten."""
        finished: list[WrittenBatch] = []
        for batch in self._batches[self._used :]:
            if (batch.source, batch.base) != (source, base) or not self._is_whole(batch, out):
                break
            finished.append(batch)
            if batch.last:
                break
        self._used += len(finished)
        if not (finished and finished[-1].last) and self._used < len(self._batches):
            self._batches = self._batches[: self._used]
            self._as_read = False
        if not self._as_read:  # seldom: a journal of many sources is long
            atomic.write_text(self._journal, "".join(_line(batch) for batch in self._batches))
            self._as_read = True
        return finished

    def _is_whole(self, batch: WrittenBatch, out: Path) -> bool:
        """Whether all files of a batch are on disk as they were written."""
        if batch.rejects is not None:
            found = sha256_of_rejects(self.folder, batch.rejects)
            if found is None or batch.rejects_sha256 not in (None, found):
                return False
        return all(is_whole(out, shard) for shard in batch.shards)

    def add(self, batch: WrittenBatch) -> None:
        """Adds a batch whose shards are on disk."""
        with atomic.appending(self._journal) as journal:
            journal.write(_line(batch))
        self._batches.append(batch)
        self._used += 1

    def note_pending(self, entries: list[dict[str, Any]]) -> None:
        """Writes down which sources must be read again if this ingest is stopped from here on."""
        write_document(self._pending, {"sources": entries})

    def clear(self) -> None:
        """Forgets everything: the DATASET is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _line(batch: WrittenBatch) -> str:
    return signed(batch.model_dump(mode="json", by_alias=True), indent=None)


@contextmanager
def locked(out: Path) -> Iterator[Path]:
    """Locks a DATASET folder for one ingest and yields its work folder.

    Raises:
        SetClipError: the folder is a file, holds other things, cannot be written, or another process writes to it.
    """
    refuse_foreign(out, "a DATASET folder", (INDEX_NAME, WORK_NAME))
    with exclusive(out):
        yield atomic.make_folder(out / WORK_NAME)
