"""What a chaos program counts, and the one line of JSON in which it says so."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXAMPLES = 3  # failures of one kind and place that are written out


class Tally:
    """Counts attempts and failures.

    Attributes:
        counts: What was done, by name.
        failures: Failures by kind: tracebacks, silent uses, bytes that differ, ...
    """

    def __init__(self, name: str, *, count: int, minutes: float, seed: int, start: int = 0) -> None:
        self.name, self.wanted, self.seed, self.start = name, count, seed, start
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.by_place: Counter[str] = Counter()
        self.examples: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {}
        self._started, self._limit, self._told = time.monotonic(), minutes * 60, 0.0

    def fail(self, kind: str, place: str, repeat: str, detail: str) -> None:
        """Counts a failure. ``place`` is what failures of one cause have in common."""
        self.failures[kind] += 1
        key = f"{kind}: {place}"
        self.by_place[key] += 1
        if self.by_place[key] <= EXAMPLES:
            self.examples.append({"kind": kind, "place": place, "repeat": repeat, "detail": detail[-1500:]})

    def time_is_over(self) -> bool:
        return time.monotonic() - self._started > self._limit

    def tell(self, done: int, *, every: float = 15.0) -> None:
        """Says on stderr how far it is."""
        now = time.monotonic()
        if now - self._told >= every:
            self._told = now
            bad = ", ".join(f"{name} {count}" for name, count in self.failures.items()) or "no failure"
            print(f"{self.name}: {done:,} of {self.wanted:,} in {now - self._started:.0f} s; {bad}", file=sys.stderr)

    def line(self) -> dict[str, Any]:
        return {
            "chaos": self.name,
            "seed": self.seed,
            "start": self.start,
            **self.counts,
            "failed": sum(self.failures.values()),
            "failures": dict(sorted(self.failures.items())),
            "by_place": dict(sorted(self.by_place.items())),
            **self.about,
            "seconds": round(time.monotonic() - self._started, 1),
            "examples": self.examples,
        }


def arguments(
    about: str | None, *, count: int, minutes: float, more: dict[str, dict[str, Any]] | None = None
) -> argparse.Namespace:
    """The flags that all chaos programs share, and those of one of them."""
    parser = argparse.ArgumentParser(
        description=(about or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--count", type=int, default=count, help="attempts")
    parser.add_argument("--seed", type=int, default=0, help="an attempt depends on the seed and its number alone")
    parser.add_argument("--start", type=int, default=0, help="number of the first attempt, to go on or to repeat one")
    parser.add_argument("--minutes", type=float, default=minutes, help="start no attempt after this time")
    parser.add_argument("--report", type=Path, help="also write the line to this file")
    parser.add_argument("--work", type=Path, help="a folder for the work; default: in memory, removed at the end")
    for name, options in (more or {}).items():
        parser.add_argument(name, **options)
    return parser.parse_args()


def finish(tally: Tally, report: Path | None) -> int:
    """Prints the line. Returns the exit code: 1 if anything failed."""
    line = json.dumps(tally.line(), ensure_ascii=True)
    print(line, flush=True)
    if report is not None:
        report.write_text(line + "\n", encoding="utf-8")
    return int(bool(tally.failures))


@contextmanager
def work_folder(given: Path | None, *, in_memory: bool = True) -> Iterator[Path]:
    """A folder, in memory where that is possible, removed at the end; or the given folder, which stays."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    memory = Path("/dev/shm")
    base = memory if in_memory and memory.is_dir() and os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="setclip-chaos-", dir=base)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
