"""Lets each place that writes meet a full or a read-only disk, then runs the command again with the disk repaired.

    python -m tests.chaos.full_disk --count 1000 --seed 0 --minutes 40 --report full_disk.json

The places are found in a run of each command: each file that is opened for writing below ``--out`` or the cache. A
small C library, loaded before all others, lets writes to one place fail in whatever library makes them: with ENOSPC at
once or after some bytes, with ENOSPC when the file is made or synced, or with EROFS or EACCES when it is made. Claims:
the command ends with exit code 3, without a traceback, and names the folder and a fix; the rerun gives the bytes of an
unbroken run. A command may also go on without the file and give these bytes. It needs Linux and a C compiler.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from . import processes
from .kills import change_of, general, may_differ, world_for
from .processes import Ended
from .tally import Tally, arguments, finish, work_folder
from .trees import Tree, differences, temporary_files, tree
from .world import Scenario, World, scenarios

FULL, NOT_MADE, NOT_SYNCED = 1, 2, 3
WAYS = (
    ("full at once", FULL, errno.ENOSPC, 0.0),
    ("full after some bytes", FULL, errno.ENOSPC, 0.5),
    ("full, the file cannot be made", NOT_MADE, errno.ENOSPC, 0.0),
    ("full at the sync", NOT_SYNCED, errno.ENOSPC, 0.0),
    ("over the quota", FULL, errno.EDQUOT, 0.0),
    ("read-only", NOT_MADE, errno.EROFS, 0.0),
    ("not permitted", NOT_MADE, errno.EACCES, 0.0),
)
TEMPORARY_FOLDER = re.compile(r"/\.([^/]+)\.[0-9a-f]{8}-\d+-[0-9a-f]{8}-\d+\.tmp(/.*)?$")  # see files/leftovers.py
_SHIM = "SETCLIP_CHAOS_DISK"


@dataclass(frozen=True)
class Attempt:
    scenario: Scenario
    text: str  # what the path contains
    place: str  # its name for people
    way: str
    how: int
    error: int
    size: int


def shim() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ[_SHIM])


def with_shim(module: str) -> str:
    """Starts this program again with the library loaded. Returns why it cannot, or an empty string if it is loaded."""
    if _SHIM in os.environ:
        return ""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        return "it needs Linux and a C compiler"
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"setclip-chaos-disk-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"disk-{os.getpid()}.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    environment = {**os.environ, _SHIM: str(library), "LD_PRELOAD": str(library)}
    return str(os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment))  # never returns


class Filler:
    """Finds the places, makes attempts and counts what they find."""

    def __init__(self, world: World, tally: Tally) -> None:
        self.world, self.tally = world, tally
        self.references: dict[str, tuple[Tree, Tree]] = {}

    def attempts(self, chosen: list[Scenario]) -> list[Attempt]:
        """Each place of each command, in each way; a place that several commands share is taken from one of them."""
        found: list[Attempt] = []
        seen: set[str] = set()
        for scenario in chosen:
            if self.tally.time_is_over():
                break
            for path in self._traced(scenario):
                final = Path(TEMPORARY_FOLDER.sub(r"/\1", str(path)))
                name = general(str(final.relative_to(self.world.root)))
                kind = f"{scenario.name.split()[0]}: {name}"
                if kind in seen:
                    continue
                seen.add(kind)
                size = _size(final)
                text = TEMPORARY_FOLDER.sub(r"/.\1.", str(path))
                found += [
                    Attempt(scenario, text, f"{scenario.name}: {name}", way, how, error, int(size * share))
                    for way, how, error, share in WAYS
                ]
        self.tally.about["places"] = len(seen)
        return found

    def _traced(self, scenario: Scenario) -> list[Path]:
        """The files that a command opens for writing."""
        log = self.world.root / "opened.log"
        log.write_bytes(b"")
        change = change_of(scenario)

        def before() -> None:
            change()
            descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
            shim().disk_trace(str(self.world.root).encode(), descriptor)

        self.world.begin(scenario)
        ended = processes.run(self.world.arguments(scenario.command), self.world.place, before=before)
        if ended.code != 0:
            raise RuntimeError(f"{scenario.name}: ended with {ended.code}\n{ended.stderr[-2000:]}")
        self.references[scenario.name] = (tree(self.world.place.out), tree(self.world.place.cache))
        below = (f"{self.world.place.out}/", f"{self.world.place.cache}/")
        return [Path(line) for line in dict.fromkeys(log.read_text().splitlines()) if line.startswith(below)]

    def make(self, attempt: Attempt, number: int) -> None:
        scenario, world = attempt.scenario, self.world
        repeat = f"--seed {self.tally.seed} --start {number} --count 1"
        place = f"{attempt.place}: {attempt.way}"
        change = change_of(scenario)

        def before() -> None:
            change()
            shim().disk_fail(attempt.text.encode(), attempt.how, attempt.error, ctypes.c_long(attempt.size))

        world.begin(scenario)
        ended = processes.run(world.arguments(scenario.command), world.place, before=before)
        self.tally.counts["attempts"] += 1
        went_on = ended.code == 0
        if went_on:
            self.tally.counts["went on"] += 1
            self._compare(scenario, place, repeat, "went on with other bytes", clean=False)
        else:
            self._judge(attempt, place, ended, repeat)
        again = processes.run(world.arguments(scenario.command), world.place, before=change)
        if again.code != 0:
            last = (again.stderr.strip().splitlines() or [""])[0][:120]
            self.tally.fail("reruns that fail", f"{place}: {general(last)}", repeat, again.stderr)
        else:
            # A command that went on without a file of the cache has finished: its rerun does not make the file either.
            self._compare(scenario, place, repeat, "bytes that differ", cache=not went_on)

    def _judge(self, attempt: Attempt, place: str, ended: Ended, repeat: str) -> None:
        if ended.traceback or ended.code != 3:
            last = (ended.stderr.strip().splitlines() or [""])[-1][:100]
            kind = "tracebacks" if ended.traceback else f"exits with {ended.code}"
            self.tally.fail(kind, f"{place}: {general(last)}", repeat, ended.stderr)
            return
        self.tally.counts["exit 3"] += 1
        folders = (str(self.world.place.out), str(self.world.place.cache))
        if not any(folder in ended.stderr for folder in folders) or "fix:" not in ended.stderr:
            self.tally.fail("without folder or fix", place, repeat, ended.stderr)
        elif attempt.error in (errno.ENOSPC, errno.EDQUOT) and not re.search("full|space|quota", ended.stderr, re.I):
            self.tally.fail("does not say that the disk is full", place, repeat, ended.stderr)

    def _compare(
        self, scenario: Scenario, place: str, repeat: str, kind: str, *, clean: bool = True, cache: bool = True
    ) -> None:
        out, of_cache = self.references[scenario.name]
        found, cached = tree(self.world.place.out), tree(self.world.place.cache)
        left = temporary_files(found) + temporary_files(cached)
        if left and clean:
            self.tally.fail("temporary files left", place, repeat, str(left))
        wrong = [line for line in differences(out, found) if not may_differ(line)]
        if clean and cache:
            wrong += [line for line in differences(of_cache, cached) if not may_differ(line)]
        wrong = [line for line in wrong if not any(name in line for name in left)]
        if scenario.holds_times:
            wrong = [line for line in wrong if not line.endswith("differs")]
        if wrong:
            self.tally.fail(kind, place, repeat, "; ".join(wrong[:5]))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def run_full_disks(world: World, tally: Tally, chosen: list[Scenario]) -> None:
    filler = Filler(world, tally)
    attempts = filler.attempts(chosen)
    random.Random(tally.seed).shuffle(attempts)
    tally.wanted = min(tally.wanted, len(attempts) - tally.start)
    number = tally.start
    while number < len(attempts) and tally.counts["attempts"] < tally.wanted and not tally.time_is_over():
        filler.make(attempts[number], number)
        number += 1
        tally.tell(tally.counts["attempts"])
    tally.about["possible"] = len(attempts)
    tally.about["next_start"] = number


def main() -> NoReturn:
    more = {"--only": {"default": "", "help": "only commands whose name contains this"}}
    given = arguments(__doc__, count=10_000, minutes=40, more=more)
    tally = Tally("full_disk", count=given.count, minutes=given.minutes, seed=given.seed, start=given.start)
    if why := with_shim("tests.chaos.full_disk"):
        tally.about["skipped"] = why
        sys.exit(finish(tally, given.report))
    library = Path(os.environ["LD_PRELOAD"])
    processes.preload()
    with work_folder(given.work) as root:
        chosen = [one for one in scenarios() if given.only in one.name and not one.spawns]
        run_full_disks(world_for(chosen, root), tally, chosen)
    library.unlink(missing_ok=True)
    sys.exit(finish(tally, given.report))


if __name__ == "__main__":
    main()
