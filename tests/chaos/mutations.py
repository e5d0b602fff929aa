"""Changes one file that setclip wrote, then runs the commands that use it.

    python -m tests.chaos.mutations --count 5000 --seed 0 --minutes 60 --report mutations.json

A file is spoiled, cut, exchanged for its like from another folder, edited so that it is still of its format, removed,
or replaced by a link; names in it are led outside. Then a command either says so (exit code 2 or 3, with the name of
the file or its folder) or gives the same bytes as without the change. Nothing outside of ``--out`` and the cache may
change.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from . import processes
from .fuzz_inputs import spoil, spoil_tree
from .processes import Ended
from .tally import Tally, arguments, finish, work_folder
from .trees import Tree, differences, replace_tree, stamps, tree
from .world import QUIET, World, make_world, small_batches


@dataclass(frozen=True)
class Use:
    """A command that uses files of some folders.

    Attributes:
        reads: Folders whose files may be changed, by their name in ``live``.
        out: The folder that it writes, or None; its content at the start is that of ``live`` too.
    """

    name: str
    command: tuple[str, ...]
    reads: tuple[str, ...]
    out: str | None = None


USES = (
    Use("verify a DATASET", ("ingest", "--verify", "{live}/pc"), ("pc",)),
    Use(
        "add to a DATASET", ("ingest", "{src}/lines.txt", "--modality", "caption", "--out", "{live}/pc"), ("pc",), "pc"
    ),
    Use(
        "ingest again",
        (
            "ingest",
            "{src}/captions.jsonl",
            "--modality",
            "caption",
            "--split",
            "train=0.7,test=0.3",
            "--pairs",
            "{src}/pairs.csv",
            "--out",
            "{live}/pc",
        ),
        ("pc",),
        "pc",
    ),
    Use(
        "continue an ingest",
        (
            "ingest",
            "{src}/captions.jsonl",
            "--modality",
            "caption",
            "--pairs",
            "{src}/pairs.csv",
            "--out",
            "{live}/killed",
        ),
        ("killed",),
        "killed",
    ),
    Use(
        "align",
        ("align", "{src}/protein.toml", "--data", "{live}/pc", *QUIET, "--out", "{live}/new"),
        ("pc", "cache"),
        "new",
    ),
    Use(
        "align cca",
        ("align", "{src}/protein.toml", "--data", "{live}/pc", "--set", "method=cca", "--out", "{live}/new"),
        ("pc", "cache"),
        "new",
    ),
    Use(
        "resume",
        ("align", "{src}/protein.toml", "--data", "{live}/pc", *QUIET, "--resume", "--out", "{live}/stopped"),
        ("stopped", "pc", "cache"),
        "stopped",
    ),
    Use(
        "align a finished RUN",
        ("align", "{src}/protein.toml", "--data", "{live}/pc", *QUIET, "--resume", "--out", "{live}/run"),
        ("run", "pc"),
        "run",
    ),
    Use("embed", ("embed", "{live}/run", "{live}/pc", "--out", "{live}/new"), ("run", "pc"), "new"),
    Use("embed again", ("embed", "{live}/run", "{live}/pc", "--out", "{live}/emb"), ("emb", "run", "pc"), "emb"),
    Use(
        "embed --faiss again",
        ("embed", "{live}/run", "{live}/pc", "--faiss", "--out", "{live}/faiss"),
        ("faiss",),
        "faiss",
    ),
    Use("search", ("search", "{live}/emb", "a kinase, entry 4", "--top", "3", "--json"), ("emb", "run", "pc", "cache")),
    Use(
        "evaluate",
        ("evaluate", "{live}/run", "{live}/pc", "--baselines", "none", "--out", "{live}/new"),
        ("run", "pc", "cache"),
        "new",
    ),
    Use(
        "evaluate EMBEDDINGS",
        ("evaluate", "{live}/emb", "{live}/pc", "--baselines", "none", "--out", "{live}/new"),
        ("emb", "pc"),
        "new",
    ),
    Use(
        "evaluate with pairs",
        (
            "evaluate",
            "{live}/run",
            "{live}/pc",
            "--baselines",
            "none",
            "--split",
            "train",
            "--relevance",
            "pairs",
            "--out",
            "{live}/new",
        ),
        ("run", "pc", "cache"),
        "new",
    ),
    Use(
        "evaluate again",
        ("evaluate", "{live}/run", "{live}/pc", "--baselines", "cca", "--out", "{live}/report"),
        ("report",),
        "report",
    ),
    Use(
        "study again",
        ("study", "{src}/study.toml", "--data", "{live}/pc", "--out", "{live}/study"),
        ("study", "pc"),
        "study",
    ),
)
LIVE = ("pc", "run", "emb", "faiss", "report", "study", "killed", "stopped")


class Mutator:
    """Makes attempts and counts what they find."""

    def __init__(self, world: World, tally: Tally, only: str = "") -> None:
        self.world, self.tally = world, tally
        self.live, self.ready = world.root / "live", world.root / "ready"
        world.words["live"] = str(self.live)
        self.uses = [use for use in USES if only in use.name and all(self._is_there(one) for one in use.reads)]
        self._wanted: dict[str, tuple[str, Tree]] = {}
        self._restore()

    def _is_there(self, name: str) -> bool:
        return name == "cache" or (self.ready / name).is_dir()

    def attempt(self, number: int) -> None:
        draw = random.Random(f"{self.tally.seed}:{number}")
        use = draw.choice(self.uses)
        stdout, wanted = self._unchanged(use)
        folder = draw.choice((use.reads[0], *use.reads))
        root = self.world.place.cache if folder == "cache" else self.live / folder
        path = draw.choice(sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".lock"))
        how = self._change(path, draw)
        if not how:
            self._restore()
            return
        changed = path.relative_to(self.world.root)
        before = self.outside(use)
        ended = processes.run(self.world.arguments(use.command), self.world.place, before=small_batches, limit=90)
        self.tally.counts["mutations"] += 1
        self._judge(use, path, f"{changed}: {how}", ended, stdout, wanted, number)
        repeat = f"--seed {self.tally.seed} --start {number} --count 1"
        for line in differences(before, self.outside(use)):
            self.tally.fail("files outside", f"{use.name}: {_kind_of(path)}: {how}", repeat, f"{changed}: {line}")
        self._restore()

    def _judge(self, use: Use, path: Path, how: str, ended: Ended, stdout: str, wanted: Tree, number: int) -> None:
        repeat = f"--seed {self.tally.seed} --start {number} --count 1"
        kind = _kind_of(path)
        place = f"{use.name}: {kind}: {how.partition(': ')[2]}"
        if ended.traceback or ended.code == 1 or (ended.code is not None and ended.code < 0):
            last = (ended.stderr.strip().splitlines() or [f"signal {ended.code}"])[-1][:80]
            self.tally.fail("tracebacks", f"{use.name}: {kind}: {_general(last)}", repeat, f"{how}\n{ended.stderr}")
        elif ended.code is None:
            self.tally.fail("no end", place, repeat, how)
        elif ended.code == 0:
            self.tally.counts["went on"] += 1
            found = tree(self.live / use.out) if use.out else {}
            itself = (
                str(path.relative_to(self.live / use.out))
                if use.out and path.is_relative_to(self.live / use.out)
                else ""
            )
            wrong = [line for line in differences(wanted, found) if "tensorboard/" not in line]
            if any(
                line.startswith(f"{itself} ") for line in wrong if itself
            ):  # the command neither reads nor repairs it
                self.tally.counts["stays damaged"] += 1
                self.tally.about.setdefault("stay", {})[place] = self.tally.about.get("stay", {}).get(place, 0) + 1
            wrong = [line for line in wrong if not itself or not line.startswith(f"{itself} ")]
            differs = bool(wrong) or (use.out is None and _comparable(ended.stdout) != stdout)
            if differs and path.name in ended.stderr:  # a part that is left out, such as a baseline, with the reason
                self.tally.counts["left out with a reason"] += 1
            elif differs:
                self.tally.fail("silent uses", place, repeat, f"{how}\n{wrong[:4] or ended.stdout[-600:]}")
        else:
            self.tally.counts["noticed"] += 1
            folder = path.parent.name
            names = (path.name, f"{folder}/", str(path.parent), path.parent.parent.name)
            if not any(name in ended.stderr for name in names):
                self.tally.fail("unnamed", place, repeat, f"{how}\n{ended.stderr}")

    def _unchanged(self, use: Use) -> tuple[str, Tree]:
        """What the command prints and writes when nothing is changed."""
        if use.name not in self._wanted:
            ended = processes.run(self.world.arguments(use.command), self.world.place, before=small_batches)
            if ended.code != 0:
                raise RuntimeError(f"{use.name}: ended with {ended.code}\n{ended.stderr[-2000:]}")
            self._wanted[use.name] = _comparable(ended.stdout), tree(self.live / use.out) if use.out else {}
            self._restore()
        return self._wanted[use.name]

    def outside(self, use: Use) -> Tree:
        """All that the command may not change."""
        found = self.world.outside()
        for name in LIVE:
            if name != use.out:
                found |= {f"live/{name}/{path}": value for path, value in stamps(self.live / name).items()}
        found |= {f"canary/{path}": value for path, value in stamps(self.world.root / "canary").items()}
        return found

    def _restore(self) -> None:
        """Puts all folders back: only what differs by name, size or time is written."""
        for name in LIVE:
            if (self.ready / name).is_dir():
                _mirror(self.ready / name, self.live / name)
        _mirror(self.world.root / "warm", self.world.place.cache)
        shutil.rmtree(self.live / "new", ignore_errors=True)
        canary = self.world.root / "canary"
        replace_tree(canary, None)
        for name in ("victim.parquet", "protein/train-00000.parquet", "protein/train.faiss", "dataset.json"):
            path = canary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not to be touched")

    # --- changes

    def _change(self, path: Path, draw: random.Random) -> str:
        """Changes a file. Returns what was done; empty if the file stayed the same."""
        before = path.read_bytes()
        kinds: list[tuple[float, Callable[[Path, bytes, random.Random], str]]] = [
            (3, self._spoil),
            (1, self._cut),
            (1, self._empty),
            (1.5, self._swap),
            (0.7, self._link),
            (0.5, self._remove),
        ]
        if path.suffix in (".json", ".jsonl", ".toml"):
            kinds += [(3, self._edit), (2, self._lead_outside)]
        if path.suffix == ".parquet":
            kinds.append((4, self._edit_table))
        if path.suffix == ".safetensors":
            kinds.append((4, self._edit_tensors))
        how = draw.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0](path, before, draw)
        same = path.is_file() and not path.is_symlink() and path.read_bytes() == before
        return "" if same else how

    def _spoil(self, path: Path, before: bytes, draw: random.Random) -> str:
        changed = bytearray(before)
        if not changed:
            return ""
        for _ in range(draw.choice((1, 1, 2, 8))):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed if draw.random() < 0.8 else spoil(before[:40_000], draw) + before[40_000:])
        return "bytes changed"

    def _cut(self, path: Path, before: bytes, draw: random.Random) -> str:
        path.write_bytes(before[: draw.randrange(len(before) + 1)])
        return "cut"

    def _empty(self, path: Path, _: bytes, __: random.Random) -> str:
        path.write_bytes(b"")
        return "emptied"

    def _remove(self, path: Path, _: bytes, __: random.Random) -> str:
        path.unlink()
        return "removed"

    def _swap(self, path: Path, _: bytes, draw: random.Random) -> str:
        """A file of the same kind from elsewhere."""
        others = [one for one in self.ready.rglob(f"*{path.suffix}") if one.is_file() and one.name != path.name]
        others += [one for one in self.ready.rglob(path.name) if one.is_file()] * 3
        if not others:
            return ""
        path.write_bytes(draw.choice(sorted(others)).read_bytes())
        return "exchanged"

    def _link(self, path: Path, before: bytes, draw: random.Random) -> str:
        """A link to the same bytes, or to nothing, in its place."""
        target = self.world.root / "canary" / "victim.parquet"
        whole = draw.random() < 0.6
        if whole:
            target.write_bytes(before)
        else:
            target = self.world.root / "canary" / "nothing"
        path.unlink()
        path.symlink_to(target)
        return "a link to the same bytes" if whole else "a link to nothing"

    def _edit(self, path: Path, before: bytes, draw: random.Random) -> str:
        """Another value somewhere, in the same format."""
        try:
            if path.suffix == ".json":
                path.write_text(json.dumps(spoil_tree(json.loads(before), draw)), encoding="utf-8")
            elif path.suffix == ".jsonl":
                lines = before.decode().splitlines()
                at = draw.randrange(len(lines))
                lines[at] = json.dumps(spoil_tree(json.loads(lines[at]), draw))
                path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            else:
                import tomli_w

                path.write_text(tomli_w.dumps(spoil_tree(tomllib.loads(before.decode()), draw)), encoding="utf-8")
        except (ValueError, TypeError, AttributeError, IndexError):
            return ""
        return "a value edited"

    def _lead_outside(self, path: Path, before: bytes, draw: random.Random) -> str:
        """A path in the file leads to a file outside."""
        canary = self.world.root / "canary"
        names = [found for found in re.findall(r'"([^"\n]{3,})"', before.decode("utf-8", "replace")) if _is_name(found)]
        if not names:
            return ""
        to = draw.choice(
            (
                f"../../canary/{draw.choice(('victim.parquet', 'protein/train-00000.parquet'))}",
                f"{canary}/victim.parquet",
                f"{canary}",
                "../../canary",
                "..",
                "/",
                "protein/../../../canary/victim.parquet",
            )
        )
        path.write_bytes(before.replace(f'"{draw.choice(names)}"'.encode(), json.dumps(to).encode()))
        return "a name leads outside"

    def _edit_table(self, path: Path, _: bytes, draw: random.Random) -> str:
        """Another Parquet file of the same schema: a label, a text, an id, a vector or the order differs."""
        code = processes.in_child(lambda: _edited_table(path, draw))
        return "a value edited" if code == 0 else ""

    def _edit_tensors(self, path: Path, _: bytes, draw: random.Random) -> str:
        code = processes.in_child(lambda: _edited_tensors(path, draw))
        return "a value edited" if code == 0 else ""


def _edited_table(path: Path, draw: random.Random) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    rows = table.to_pylist()
    name = draw.choice(table.column_names)
    at = draw.randrange(len(rows))
    value = rows[at][name]
    if isinstance(value, str):
        rows[at][name] = draw.choice((f"{value}x", "kinase", rows[at - 1][name]))
    elif isinstance(value, list):
        rows[at][name] = draw.choice(([-one for one in value], [0.0] * len(value), [float("nan")] * len(value)))
    elif isinstance(value, int):
        rows[at][name] = value + 1
    elif isinstance(value, bytes):
        rows[at][name] = value[:-1] + b"x"
    else:
        rows.reverse()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def _edited_tensors(path: Path, draw: random.Random) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = draw.choice(sorted(tensors))
    value = tensors[name]
    changed = {
        "negative": -value,
        "zero": torch.zeros_like(value),
        "short": value[: max(1, len(value) // 2)].clone() if value.dim() else value + 1,
        "infinite": torch.full_like(value, float("inf")) if value.is_floating_point() else value + 1,
    }
    tensors[name] = changed[draw.choice(sorted(changed))]
    save_file(tensors, path, metadata=header)


def _is_name(text: str) -> bool:
    return ("/" in text or "." in text or text in ("train", "test", "protein", "caption")) and not text.startswith(
        "schema"
    )


def _kind_of(path: Path) -> str:
    """The kind of a file of ours, without what only this one has in its name."""
    parent = re.sub(r"^.*seed-.*$", "RUN", path.parent.name)
    return f"{parent}/{_general(path.name)}"


def _general(text: str) -> str:
    text = re.sub(r"/\S*/", "", text)
    return re.sub(r"[0-9a-f]{8,}|\d+", "#", text)


def _comparable(stdout: str) -> str:
    """What a command prints, without its times."""
    return re.sub(r"[\d.]+ s\b|\"wall_s\": [\d.]+", "", stdout)


def _mirror(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    wanted = {path.relative_to(source): path for path in source.rglob("*")}
    for path in sorted(target.rglob("*"), reverse=True):
        relative = path.relative_to(target)
        if relative not in wanted:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for relative, path in wanted.items():
        copy = target / relative
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        elif not _same(path, copy):
            if copy.is_symlink():
                copy.unlink()
            shutil.copy2(path, copy)


def _same(one: Path, other: Path) -> bool:
    try:
        found, wanted = os.lstat(other), os.lstat(one)
    except OSError:
        return False
    return (found.st_mode, found.st_size, found.st_mtime_ns) == (wanted.st_mode, wanted.st_size, wanted.st_mtime_ns)


def prepare(world: World) -> None:
    """A killed ingest and a stopped training, and all folders where they stay: ``live`` has the same paths always."""
    live, ready = world.root / "live", world.root / "ready"
    world.words["live"] = str(live)
    original = {name: ready / name for name in ("pc", "p")}
    replace_tree(live / "pc", original["pc"])
    replace_tree(live / "killed", original["p"])
    command = ("ingest", "{src}/captions.jsonl", "--modality", "caption", "--pairs", "{src}/pairs.csv")
    points = processes.Points(at=60, sent=9)
    processes.run(
        world.arguments((*command, "--out", "{live}/killed")), world.place, before=small_batches, points=points
    )
    if not (live / "killed" / ".ingest" / "journal.jsonl").is_file():
        raise RuntimeError("the ingest was not stopped between two batches")
    train = ("align", "{src}/protein.toml", "--data", "{live}/pc", *QUIET)
    world.must(*train, "--out", "{live}/run")
    world.must("embed", "{live}/run", "{live}/pc", "--out", "{live}/emb")
    if (ready / "faiss").is_dir():
        world.must("embed", "{live}/run", "{live}/pc", "--out", "{live}/faiss", "--faiss")
    world.must("evaluate", "{live}/run", "{live}/pc", "--out", "{live}/report", "--baselines", "cca")
    world.must("evaluate", "{live}/run", "{live}/pc", "--out", "{live}/new", "--baselines", "none", "--split", "train")
    world.must("study", "{src}/study.toml", "--data", "{live}/pc", "--out", "{live}/study")
    world.must("search", "{live}/emb", "a kinase, entry 4", "--top", "3")
    for at in range(70, 200, 5):  # a training that was killed after two checkpoints
        shutil.rmtree(live / "stopped", ignore_errors=True)
        points = processes.Points(at=at, sent=9)
        processes.run(world.arguments((*train, "--resume", "--out", "{live}/stopped")), world.place, points=points)
        if (
            len(list((live / "stopped").glob("checkpoints/step-*"))) == 2
            and not (live / "stopped" / "config.json").exists()
        ):
            break
    else:
        raise RuntimeError("the training was not stopped between two checkpoints")
    replace_tree(world.root / "warm", world.place.cache)
    shutil.rmtree(live / "new", ignore_errors=True)
    for name in LIVE:
        replace_tree(ready / name, live / name if (live / name).is_dir() else None)


def run_mutations(world: World, tally: Tally, only: str = "") -> None:
    mutator = Mutator(world, tally, only)
    number = tally.start
    while tally.counts["mutations"] < tally.wanted and not tally.time_is_over():
        mutator.attempt(number)
        number += 1
        tally.tell(tally.counts["mutations"])
    tally.about["next_start"] = number


def main() -> NoReturn:
    given = arguments(
        __doc__,
        count=5000,
        minutes=60,
        more={"--only": {"default": "", "help": "only commands whose name contains this"}},
    )
    processes.preload()
    with work_folder(given.work) as root:
        tally = Tally("mutations", count=given.count, minutes=given.minutes, seed=given.seed, start=given.start)
        world = make_world(root, finished=False)
        prepare(world)
        run_mutations(world, tally, given.only)
        sys.exit(finish(tally, given.report))


if __name__ == "__main__":
    main()
