"""What an ingest has finished so far, so that a killed one goes on where it stopped.

DATASET/.ingest.lock                 held (flock) while an ingest runs; a crash lets go of it
DATASET/.ingest/journal.jsonl    one Unit a line, appended and fsynced after its shards are in place
DATASET/.ingest/rejects-*.parquet
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from setclip_cli.dataset.dataset import INDEX_NAME, Shard
from setclip_cli.errors import SetClipError
from setclip_cli.files.lock import exclusive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORK_NAME = ".ingest"


class Unit(BaseModel):
    """A run of items of one source whose shards are all on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str  # the identity of its source: path, options and fingerprint in one hash
    base: str  # hash of the sources that the DATASET held before it
    items: int  # of the source, from its start to the end of this unit
    shards: list[Shard]
    rejects: str | None  # name of the part in the work folder
    tally: dict[str, Any]
    last: bool  # the source is done


@contextmanager
def locked(out: Path) -> Iterator[Path]:
    """Claims a folder for one ingest and yields its work folder.

    Raises:
        SetClipError: the folder is a file, holds something that is not ours, cannot be written, or is claimed already.
    """
    try:
        _check_ours(out)
        with exclusive(out):
            work = out / WORK_NAME
            work.mkdir(exist_ok=True)
            yield work
    except OSError as error:
        raise write_error(out, error) from error


def write_error(out: Path, error: OSError) -> SetClipError:
    """The user's words for what kept a folder from being written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return SetClipError(
            f"{out}: disk full ({os.strerror(error.errno)}); only whole shards were kept",
            fix="free some space and run the same command again: it goes on where it stopped",
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return SetClipError(
        f"{error.filename or out}: cannot be written ({reason})", fix="choose another --out, or its permissions"
    )


def _check_ours(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SetClipError(f"{out}: exists and is no folder", fix="choose another --out")
    if not out.is_dir():
        return
    names = {entry.name for entry in out.iterdir()}
    if names - {".lock"} and not names & {INDEX_NAME, WORK_NAME}:
        raise SetClipError(
            f"{out}: exists and is no DATASET (holds {', '.join(sorted(names)[:3])})",
            fix="choose another --out; nothing there was touched",
        )


def read_units(work: Path) -> list[Unit]:
    """The units on record, up to the first line that a kill left half-written."""
    path = work / "journal.jsonl"
    units: list[Unit] = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                units.append(Unit.model_validate_json(line))
            except ValidationError:
                break
    return units


def rewrite(work: Path, units: list[Unit]) -> None:
    """Keeps only the given units on record."""
    from setclip_cli.files import atomic

    atomic.write_text(work / "journal.jsonl", "".join(unit.model_dump_json() + "\n" for unit in units))


def append(work: Path, unit: Unit) -> None:
    with (work / "journal.jsonl").open("a") as journal:
        journal.write(unit.model_dump_json() + "\n")
        journal.flush()
        os.fsync(journal.fileno())


def clear(work: Path) -> None:
    """Forgets everything: the DATASET is finished."""
    shutil.rmtree(work, ignore_errors=True)
