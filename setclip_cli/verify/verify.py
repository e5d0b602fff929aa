"""Checks a DATASET, RUN, EMBEDDINGS, REPORT, matches, study, quickstart or cache, whichever a path is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from setclip_cli import console
from setclip_cli.console import text_of_lines
from setclip_cli.dataset.dataset import INDEX_NAME, WORK_NAME, open_dataset
from setclip_cli.dataset.verify import faults_of
from setclip_cli.embedding.embeddings import FINISHED, open_embeddings
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.report import FILES_NAME, ReportFile, ReportFiles
from setclip_cli.files import atomic, sealed
from setclip_cli.files.documents import read_json, unsigned
from setclip_cli.files.leftovers import is_temporary
from setclip_cli.files.lock import LOCK_NAME
from setclip_cli.files.what_is import what_is
from setclip_cli.options import path_of
from setclip_cli.remote.arguments import takes_places
from setclip_cli.remote.run_files import CONFIG_NAME, tuned_name
from setclip_cli.run import checkpoint
from setclip_cli.run.config import METRICS_NAME, RECIPE_NAME, advice, load_config
from setclip_cli.run.folder import CHECKPOINTS_NAME, SELECTION_NAME
from setclip_cli.trust.saved import CALIBRATION_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MATCHES_NAME = "matches.json"
_OF_LOGGERS = {"tensorboard", "wandb", "mlruns"}  # folders of other programs in a RUN
_WHAT = {
    "dataset": "DATASET",
    "run": "RUN",
    "embeddings": "EMBEDDINGS",
    "report": "REPORT",
    "matches": "folder of matches",
    "study": "study",
    "quickstart": "quickstart",
    "cache": "cache",
}


@dataclass
class VerifyResult:
    """What was checked and found whole.

    Attributes:
        files: Files whose bytes were compared with a hash.
        unchecked: Files of ours without a hash, such as those of an early version.
        unlisted: Files that no index lists; nothing uses them.
        faults: What is wrong; empty in a result that is returned.
    """

    path: Path
    what: str
    files: int = 0
    rows: int = 0
    bytes: int = 0
    unchecked: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "path": str(self.path), "whole": not self.faults}

    def summary(self) -> str:
        rows = f", {self.rows:,} rows" if self.rows else ""
        lines = [f"{self.path}: a whole {self.what}; {self.files:,} files{rows}, {self.bytes / 1e6:,.1f} MB; all match"]
        if self.unchecked:
            lines.append(f"{_files(len(self.unchecked), 'has', 'have')} no hash on record: {_some(self.unchecked)}")
        if self.unlisted:
            lines.append(
                f"{_files(len(self.unlisted), 'is', 'are')} listed nowhere and not used: {_some(self.unlisted)}"
            )
        return text_of_lines(lines)

    def compare(self, name: str, sha256: str, rows: int = 0) -> None:
        """Compares a file with its hash."""
        path = self.path / name
        if not path.is_file():
            self.faults.append(f"{name}: missing")
        elif atomic.sha256_file(path) != sha256:
            self.faults.append(f"{name}: its sha256 differs")
        else:
            self.count(path, rows)

    def count(self, path: Path, rows: int = 0) -> None:
        self.files += 1
        self.rows += rows
        self.bytes += path.stat().st_size

    def check_document(self, name: str) -> None:
        """Compares a JSON file with the hash in it."""
        path = self.path / name
        try:
            _, unchanged = unsigned(path.read_bytes())
        except (OSError, ValueError) as error:
            self.faults.append(f"{name}: cannot be read ({error})")
            return
        if not unchanged:
            self.faults.append(f"{name}: its bytes do not have the sha256 in it")
        else:
            self.count(path)

    def add(self, other: VerifyResult) -> None:
        """Adds what was found in a folder within this one."""
        inside = other.path.relative_to(self.path).as_posix()
        self.files, self.rows, self.bytes = self.files + other.files, self.rows + other.rows, self.bytes + other.bytes
        for mine, theirs in (
            (self.unchecked, other.unchecked),
            (self.unlisted, other.unlisted),
            (self.faults, other.faults),
        ):
            mine += [f"{inside}/{name}" for name in theirs]

    def list_others(self, known: Iterable[str], *, skip: Iterable[str] = ()) -> None:
        """Lists the files that are not known; those in folders of ``skip`` are of other programs."""
        listed, left = {*known, LOCK_NAME}, set(skip)
        for path in sorted(self.path.rglob("*")):
            parts = path.relative_to(self.path).parts
            if path.is_file() and parts[0] not in left and not any(is_temporary(part) for part in parts):
                name = "/".join(parts)
                if name not in listed:
                    self.unlisted.append(name)


@takes_places("path")
def verify(path: str | Path) -> VerifyResult:
    """Checks one of our folders: every file of it, every byte.

    Raises:
        SetClipError: it is none of our folders, was not finished, or has files that are missing or have changed.
    """
    path = path_of(path, "path")
    found = what_is(path)
    if found.kind not in _CHECKS:
        raise SetClipError(
            f"{path}: {found.words}, which cannot be checked",
            fix="give a DATASET, RUN, EMBEDDINGS, REPORT, or the folder of matches, a study, a quickstart or the cache",
        )
    result = _checked(path, found.kind)
    if result.faults:
        more = f" and {len(result.faults) - 5} more" if len(result.faults) > 5 else ""
        fix = _FIXES[found.kind]
        raise SetClipError(
            f"{path}: {len(result.faults)} faults: {'; '.join(result.faults[:5])}{more}",
            fix=advice(path, fix) if found.kind == "run" else fix,
        )
    return result


def _checked(path: Path, kind: str) -> VerifyResult:
    result = VerifyResult(path, _WHAT[kind])
    _CHECKS[kind](result)
    return result


def _dataset(result: VerifyResult) -> None:
    dataset = open_dataset(result.path)
    index = dataset.index
    result.faults += faults_of(dataset)
    result.files = len(index.shards) + len(index.files) + 1
    result.rows, result.bytes = sum(each.rows for each in index.shards), sum(each.bytes for each in index.shards)
    known = {INDEX_NAME, "croissant.json", *index.files, *(shard.path for shard in index.shards)}
    result.list_others(known, skip=[WORK_NAME])


def _run(result: VerifyResult) -> None:
    config = load_config(result.path)
    hashes: dict[str, str] = {str(name): sha256 for name, sha256 in config.files.items()}
    for modality, tower in config.towers.items():
        if tower.tuned_sha256 is not None:
            hashes[tuned_name(modality)] = tower.tuned_sha256
    result.check_document(CONFIG_NAME)
    for name, sha256 in console.progress(sorted(hashes.items()), label="verify", unit="files"):
        result.compare(name, sha256)
    ours = {CONFIG_NAME, RECIPE_NAME, METRICS_NAME, SELECTION_NAME, "model.safetensors", "initial.safetensors"}
    result.unchecked += sorted(name for name in ours - {CONFIG_NAME, *hashes} if (result.path / name).is_file())
    folder = result.path / CHECKPOINTS_NAME
    checkpoints = sorted(path for path in folder.glob("step-*.safetensors")) if folder.is_dir() else []
    for path in checkpoints:
        try:
            checkpoint.load(path)
        except SetClipError as error:
            result.faults.append(error.problem.removeprefix(f"{result.path}/"))
        else:
            result.count(path)
    if (result.path / CALIBRATION_NAME).is_file():
        result.check_document(CALIBRATION_NAME)
    known = {
        *ours,
        *hashes,
        "README.md",
        CALIBRATION_NAME,
        *(f"{CHECKPOINTS_NAME}/{path.name}" for path in checkpoints),
    }
    result.list_others(known, skip=_OF_LOGGERS)


def _embeddings(result: VerifyResult) -> None:
    index = open_embeddings(result.path).index
    result.check_document("embeddings.json")
    for shard in console.progress(index.shards, label="verify", unit="shards"):
        result.compare(shard.path, shard.sha256, shard.rows)
    for name, sha256 in index.files.items():
        result.compare(name, sha256)
    result.list_others({"embeddings.json", *index.files, *(shard.path for shard in index.shards)}, skip=[FINISHED])


def _report(result: VerifyResult) -> None:
    hashes: dict[str, str] = {}
    if (result.path / FILES_NAME).is_file():
        listed = read_json(result.path / FILES_NAME, ReportFiles, fix=_FIXES["report"]).files
        hashes = {str(name): sha256 for name, sha256 in listed.items()}
        result.check_document(FILES_NAME)
    for name in get_args(ReportFile):
        if name in hashes:
            result.compare(name, hashes[name])
        elif (result.path / name).is_file():
            result.unchecked.append(name)
        else:
            result.faults.append(f"{name}: missing")
    for run in sorted((result.path / "baselines").glob("*/*")):
        if (run / CONFIG_NAME).exists():
            result.add(_checked(run, "run"))
    result.list_others({FILES_NAME, *get_args(ReportFile)}, skip=["baselines"])


def _matches(result: VerifyResult) -> None:
    result.check_document(MATCHES_NAME)
    with suppress(OSError, ValueError):  # the check of the document has named them
        listed = unsigned((result.path / MATCHES_NAME).read_bytes())[0].get("files", {})
        for name, sha256 in listed.items():
            result.compare(name, sha256)
        result.list_others({MATCHES_NAME, *listed})


def _study(result: VerifyResult) -> None:
    for run in sorted((result.path / "runs").glob("*")):
        if (run / CONFIG_NAME).exists():
            result.add(_checked(run, "run"))
    for scores in sorted((result.path / "scores").glob("*.json")):
        result.check_document(f"scores/{scores.name}")
    if (result.path / "study.json").exists():
        result.check_document("study.json")


def _quickstart(result: VerifyResult) -> None:
    for name, kind in (("dataset", "dataset"), ("embeddings", "embeddings"), ("report", "report")):
        if what_is(result.path / name).kind == kind:
            result.add(_checked(result.path / name, kind))
    for run in sorted((result.path / "runs").glob("*")):
        if (run / CONFIG_NAME).exists():
            result.add(_checked(run, "run"))
    source = result.path / "source"
    if (source / "source.json").exists():
        result.check_document("source/source.json")
        with suppress(OSError, ValueError):  # the check of the document has named them
            listed = unsigned((source / "source.json").read_bytes())[0].get("files", {})
            there = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
            result.faults += [f"source/{name}: missing" for name in sorted(listed.keys() - there)]
            for name in sorted(there & listed.keys()):
                result.compare(f"source/{name}", listed[name])


def _cache(result: VerifyResult) -> None:
    for kind in ("features", "vectors", "items", "layers"):
        for path in sorted((result.path / kind).glob("*")):
            if not path.is_file() or is_temporary(path.name):
                continue
            seal, name = sealed.seal_of(path), f"{kind}/{path.name}"
            if seal.is_file():
                result.compare(name, seal.read_text(encoding="utf-8", errors="replace").strip())
            else:
                result.unchecked.append(name)


def _files(count: int, one: str, many: str) -> str:
    return f"1 file {one}" if count == 1 else f"{count:,} files {many}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


_CHECKS: dict[str, Callable[[VerifyResult], None]] = {
    "dataset": _dataset,
    "run": _run,
    "embeddings": _embeddings,
    "report": _report,
    "matches": _matches,
    "study": _study,
    "quickstart": _quickstart,
    "cache": _cache,
}
_FIXES = {
    "dataset": "restore the files from a copy, or run the `setclip ingest` commands again with a new folder",
    "run": "restore the files from a copy, or train again with `setclip align` into another folder",
    "embeddings": "run the same `setclip embed` command again: it makes these files anew",
    "report": "run the same `setclip evaluate` command again",
    "matches": "run the same `setclip match` command again",
    "study": "remove the folders of these runs, and run the same `setclip study` command again",
    "quickstart": "remove the folder, and run `setclip quickstart` again",
    "cache": "nothing: the next command that needs these files makes them again",
}
