"""Sources that are read one after the other and by workers ahead, which must give the same DATASET."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny

from setclip_cli.dataset.verify import verify
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestEngine, IngestOptions

WAYS: tuple[IngestEngine, ...] = ("local", "process")


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@dataclass
class Done:
    """What the ingest did with each source that workers read: the identities of the sources."""

    taken: list[str] = field(default_factory=list)  # as they were read
    again: list[str] = field(default_factory=list)  # some of their rows were decided about again
    read: list[str] = field(default_factory=list)  # read again


def same_bytes(
    sources: Sequence[Path], root: Path, *, shard_rows: int = 7, shard_bytes: int = 1 << 20, **options: Any
) -> dict[str, bytes]:
    """Reads the sources in both ways, and returns the one DATASET that they must give."""
    for engine in WAYS:
        chosen = IngestOptions(engine=engine, **options)
        ingest(sources, root / engine, chosen, shard_rows=shard_rows, shard_bytes=shard_bytes)
    found = contents(root / "process")
    assert found == contents(root / "local")
    verify(root / "process")
    return found


def fasta(path: Path, first: int, count: int, *, bad: bool = False) -> Path:
    proteins = tiny.proteins(first + count, longest=30)[first:]
    records = [f">P{first + number:05d} a protein\n{each}\n" for number, each in enumerate(proteins)]
    return write(path, "".join(records) + (">bad\nMK1\n" if bad else ""))
