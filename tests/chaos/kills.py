"""Kills every command at random moments, runs it again, and compares the bytes with those of a run that nobody killed.

    python -m tests.chaos.kills --count 1000 --seed 0 --minutes 40 --report kills.json

An attempt stops a command once or several times, by SIGKILL, SIGTERM or SIGINT: at a random moment of its run time, or
around a rename, a sync or a removal of a file. Then the command runs to its end. Claims: after each kill each visible
file is whole; no process is left; at the end the folder and the cache hold the same bytes as without a kill and no
temporary file; nothing was written outside of them; a stopped command exits with 130 or 143 and shows no traceback.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from . import processes
from .processes import Ended, Points
from .tally import Tally, arguments, finish, work_folder
from .trees import Tree, damage, differences, digest, replace_tree, temporary_files, tree
from .world import Scenario, World, make_world, quickstart_maps, scenarios, small_batches, small_quickstart

STOPPED = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15), signal.SIGINT: (130, -2)}
PROGRAM_SHARE = 0.04  # of the attempts run a new Python, as users do; that takes seconds


@dataclass
class Reference:
    """What a command does when nobody stops it.

    Attributes:
        moments: Number of moments at which `Points` can stop it.
        contents: Path below the world -> hashes of all contents that the file had.
        varies: Files that differ between two runs: wall times, for one.
    """

    seconds: float
    moments: int
    out: Tree
    cache: Tree
    contents: dict[str, set[str]] = field(default_factory=dict)
    varies: set[str] = field(default_factory=set)


class Killer:
    """Makes attempts and counts what they find."""

    def __init__(self, world: World, tally: Tally) -> None:
        self.world, self.tally = world, tally
        self._references: dict[str, Reference] = {}

    def reference(self, scenario: Scenario) -> Reference:
        """Runs the command twice without a kill; the first time is remembered."""
        if scenario.name not in self._references:
            first, log = self._unbroken(scenario)
            second, _ = self._unbroken(scenario)
            varies = {
                line.rpartition(" ")[0] for line in differences(first.out, second.out) if line.endswith("differs")
            }
            first.varies = varies
            for line in log:
                hashed, _, target = line.partition(" ")
                first.contents.setdefault(target, set()).add(hashed)
            self._references[scenario.name] = first
        return self._references[scenario.name]

    def _unbroken(self, scenario: Scenario) -> tuple[Reference, list[str]]:
        log = self.world.root / "moments.log"
        self.world.begin(scenario)
        ended = processes.run(
            self.world.arguments(scenario.command), self.world.place, before=change_of(scenario), points=Points(log=log)
        )
        if ended.code != 0:
            raise RuntimeError(f"{scenario.name}: ended with {ended.code} without a kill\n{ended.stderr[-3000:]}")
        count, *renamed = log.read_text(encoding="utf-8").splitlines()
        place = self.world.place
        return Reference(ended.seconds, int(count), tree(place.out), tree(place.cache)), renamed

    def attempt(self, scenario: Scenario, number: int) -> int:
        """One attempt. Returns how many kills it made."""
        draw = random.Random(f"{self.tally.seed}:{number}")
        reference, world = self.reference(scenario), self.world
        repeat = f"--seed {self.tally.seed} --start {number} --count 1"
        # A new program has batches of the usual size, so an ingest by it has other shards than the reference.
        program = scenario.change is None and scenario.command[0] != "ingest" and draw.random() < PROGRAM_SHARE
        outside = world.outside()
        world.begin(scenario)
        kills = 0
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            sent = draw.choices((signal.SIGKILL, signal.SIGTERM, signal.SIGINT), (6, 2, 2))[0]
            ended = self._stopped(scenario, reference, sent, draw, program=program)
            if ended.code == 0:
                break
            kills += 1
            self._check_stop(scenario, sent, ended, repeat)
            self._check_whole(scenario, reference, repeat)
        ended = processes.run(world.arguments(scenario.command), world.place, before=change_of(scenario))
        self._check_end(scenario, reference, ended, repeat)
        for line in differences(outside, world.outside()):
            self.tally.fail("files outside", f"{scenario.name}: {line}", repeat, line)
            _clean(world, line)
        return kills

    def _stopped(
        self, scenario: Scenario, reference: Reference, sent: int, draw: random.Random, *, program: bool
    ) -> Ended:
        """Runs the command and stops it at a random moment."""
        words, place = self.world.arguments(scenario.command), self.world.place
        if program:
            running = processes.start(words, place, program=True)
            time.sleep(draw.uniform(0, 2.5 + reference.seconds))
            running.send(sent, group=draw.random() < 0.3)
            return running.wait()
        if draw.random() < 0.6 and reference.moments:
            points = Points(at=draw.randrange(reference.moments), sent=sent)
            return processes.run(words, place, before=change_of(scenario), points=points)
        running = processes.start(words, place, before=change_of(scenario))
        time.sleep(draw.uniform(0, reference.seconds))
        running.send(sent, group=sent == signal.SIGINT and draw.random() < 0.5)
        return running.wait()

    def _check_stop(self, scenario: Scenario, sent: int, ended: Ended, repeat: str) -> None:
        name = signal.Signals(sent).name
        if ended.left:
            self.tally.fail("processes left", f"{scenario.name}: {name}", repeat, ended.stderr)
        if ended.traceback:
            last = ended.stderr.strip().splitlines()[-1][:100]
            self.tally.fail("tracebacks", f"{scenario.name}: {name}: {last}", repeat, ended.stderr)
        elif ended.code not in STOPPED[signal.Signals(sent)]:
            self.tally.fail("other exits", f"{scenario.name}: {name}: {ended.code}", repeat, ended.stderr)

    def _check_whole(self, scenario: Scenario, reference: Reference, repeat: str) -> None:
        """Each visible file has a content that an unbroken run gives it, or at least the structure of its kind."""
        for folder in (self.world.place.out, self.world.place.cache):
            for path in folder.rglob("*") if folder.exists() else ():
                if (
                    not path.is_file()
                    or any(part.startswith(".") for part in path.relative_to(folder).parts)
                    or digest(path) in reference.contents.get(str(path), ())
                ):
                    continue
                if why := damage(path):
                    relative = path.relative_to(self.world.root)
                    self.tally.fail("damaged files", f"{scenario.name}: {relative}", repeat, why)

    def _check_end(self, scenario: Scenario, reference: Reference, ended: Ended, repeat: str) -> None:
        if ended.code != 0:
            kind = "tracebacks" if ended.traceback or ended.code == 1 else "reruns that fail"
            last = (ended.stderr.strip().splitlines() or ["nothing"])[-1][:100]
            self.tally.fail(kind, f"{scenario.name}: rerun: {ended.code}: {last}", repeat, ended.stderr)
            return
        found, cached = tree(self.world.place.out), tree(self.world.place.cache)
        leftovers = temporary_files(found) + temporary_files(cached)
        for name in leftovers:
            self.tally.fail("temporary files left", f"{scenario.name}: {general(name)}", repeat, name)
        for line in differences(reference.out, found):
            name = line.rpartition(" ")[0].removesuffix(" is").removesuffix(" is left")
            if name not in reference.varies and not may_differ(name) and name not in leftovers:
                self.tally.fail("bytes that differ", f"{scenario.name}: {general(line)}", repeat, line)
        for line in differences(reference.cache, cached):
            name = line.rpartition(" ")[0].removesuffix(" is").removesuffix(" is left")
            if name not in leftovers and not may_differ(name):
                self.tally.fail("bytes that differ in the cache", f"{scenario.name}: {line[-40:]}", repeat, line)


def change_of(scenario: Scenario):
    return scenario.change or small_batches


def may_differ(name: str) -> bool:
    """Files that hold times: TensorBoard's, one for each start, and what the cache remembers of sizes and times."""
    return "tensorboard/" in name or name.startswith("hashes/")


def general(line: str) -> str:
    """A name without what differs from one process to the next."""
    line = re.sub(r"\.[0-9a-f]{8}-\d+-[0-9a-f]{8}-\d+\.tmp", ".tmp", line)
    return re.sub(r"\d{3,}|[0-9a-f]{16,}", "#", line)


def _clean(world: World, line: str) -> None:
    if line.endswith("is left over"):
        (world.root / line.removesuffix(" is left over")).unlink(missing_ok=True)


def run_kills(world: World, tally: Tally, chosen: list[Scenario]) -> None:
    """Attempts until there were ``tally.wanted`` kills, or the time is over."""
    killer = Killer(world, tally)
    per_scenario: Counter[str] = Counter()
    number = tally.start
    while tally.counts["kills"] < tally.wanted and not tally.time_is_over():
        draw = random.Random(f"{tally.seed}:{number}:scenario")
        scenario = draw.choices(chosen, [one.weight for one in chosen])[0]
        kills = killer.attempt(scenario, number)
        tally.counts["attempts"] += 1
        tally.counts["kills"] += kills
        per_scenario[scenario.name] += kills
        number += 1
        tally.tell(tally.counts["kills"])
    tally.about["kills_by_command"] = dict(sorted(per_scenario.items()))
    tally.about["next_start"] = number
    varies = {name for one in killer._references.values() for name in one.varies}
    tally.about["differ_without_a_kill"] = sorted(varies)


def world_for(chosen: list[Scenario], root: Path) -> World:
    """The world, with what the chosen commands start from."""
    finished = any(not one.name.startswith("ingest") for one in chosen)
    world = make_world(root, finished=finished)
    (root / "ready" / "empty").mkdir()
    replace_tree(root / "ready" / "pc-unpaired", root / "ready" / "p")
    world.must("ingest", "{src}/captions.jsonl", "--modality", "caption", "--out", "{ready}/pc-unpaired")
    world.must("ingest", "{src}/wds.tar", "--modality", "image", "--out", "{ready}/wds")
    if finished:
        world.must("embed", "{ready}/irun", "{ready}/ic", "--out", "{ready}/iemb")
    if any(one.name.startswith("quickstart") for one in chosen):
        quickstart_maps()
        world.must("quickstart", "--out", "{ready}/quickstart", change=small_quickstart)
        for path in (root / "ready" / "quickstart").iterdir():
            if path.name != "source":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return world


def main() -> NoReturn:
    more = {"--only": {"default": "", "help": "only commands whose name contains this"}}
    given = arguments(__doc__, count=1000, minutes=40, more=more)
    processes.preload()
    with work_folder(given.work) as root:
        tally = Tally("kills", count=given.count, minutes=given.minutes, seed=given.seed, start=given.start)
        chosen = [one for one in scenarios() if given.only in one.name]
        run_kills(world_for(chosen, root), tally, chosen)
        sys.exit(finish(tally, given.report))


if __name__ == "__main__":
    main()
