"""`study`: a grid of recipes and seeds becomes RUNs, one table and its plots.

STUDY.toml                   a base recipe, axes (every combination) or variants (one by one), seeds, metrics
DIR/runs/<cell>/             a RUN for each cell; finished ones are not trained again
DIR/scores/<cell>.json       its metrics on the split, before and after training
DIR/study.json, study.md, *.svg
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import re
import threading
import time
import tomllib
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from setclip_cli import atomic, study_report
from setclip_cli.console import note, progress
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.recipe import load_recipe, shipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.recipe import Recipe
    from setclip_cli.shards import Dataset

Value = str | int | float | bool
_backbones: dict[str, Backbone] = {}  # of this process: a worker scores many cells and loads each backbone once


class Variant(BaseModel):
    """A named change of the base recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    set: dict[str, Value] = {}

    @field_validator("set", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        return _flat(value) if isinstance(value, dict) else value


class Study(BaseModel):
    """STUDY.toml.

    Attributes:
        recipe: The base: a path relative to the study's file, or the name of a recipe that comes with the package.
        axes: Recipe key -> its values; every combination is a cell.
        variants: Changes that stand for themselves, each combined with the axes.
        seeds: How many seeds, 0 and up, each cell is run with.
        metrics: What the table shows; the first one is plotted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    title: str = "Study"
    recipe: str
    axes: dict[str, Annotated[list[Value], Field(min_length=1)]] = {}
    variants: list[Variant] = []
    seeds: PositiveInt = 3
    split: str = "test"
    relevance: Literal["label", "group", "pairs"] = "label"
    metrics: Annotated[list[str], Field(min_length=1)]

    @field_validator("axes", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        return _flat(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _something_to_compare(self) -> Study:
        if not self.axes and not self.variants:
            raise ValueError("needs axes or variants")
        if "seed" in self.axes:
            raise ValueError("axes.seed: give seeds = COUNT instead")
        return self


@dataclass(frozen=True)
class Cell:
    """One RUN to be: a combination and a seed.

    Attributes:
        column: What the table calls the combination.
        settings: Recipe key -> value, of axes and variant together.
        recipe: Resolved; None where the combination contradicts itself.
        name: Of its folder: readable, and different for another recipe.
        impossible: Why the combination cannot be run, or an empty string.
    """

    column: str
    settings: dict[str, Value]
    seed: int
    recipe: Recipe | None
    name: str
    impossible: str = ""


@dataclass(frozen=True)
class StudyResult:
    """What a study found."""

    out: Path
    content: dict[str, Any]  # study.json
    trained: int
    reused: int
    failed: int
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        return {"out": str(self.out), "trained": self.trained, "reused": self.reused, "failed": self.failed,
                "wall_s": round(self.wall_s, 1), "study": self.content}  # fmt: skip

    def summary(self) -> str:
        counts = f"{self.trained} cells run, {self.reused} there already, {self.failed} failed, {self.wall_s:.0f} s"
        return f"{study_report.table(self.content)}\n{counts}; see {self.out / 'study.md'}"


def load_study(path: Path) -> Study:
    """Reads STUDY.toml.

    Raises:
        SetClipError: exit code 2; no such file, no TOML, or keys that are not a study's.
    """
    if not path.is_file():
        raise SetClipError(f"{path}: no such study file", fix="start from one under studies/", exit_code=ExitCode.USAGE)
    try:
        return Study.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetClipError(
            f"{path}: is no valid TOML ({error})", fix="correct the file at that place", exit_code=ExitCode.USAGE
        ) from error
    except ValidationError as error:
        lines = [f"  - {'.'.join(map(str, one['loc'])) or 'study'}: {one['msg']}" for one in error.errors()]
        raise SetClipError(
            "\n".join([f"{path}: {len(lines)} problems in the study", *lines]),
            fix="compare it with one under studies/",
            exit_code=ExitCode.USAGE,
        ) from error


def plan(study: Study, path: Path) -> list[Cell]:
    """Every cell, in the order of the table, with its recipe resolved; nothing is trained.

    Raises:
        SetClipError: exit code 2; an axis or variant is wrong by itself, such as a key that no recipe has. Settings
            that are fine alone and contradict each other make a cell impossible instead.
    """
    base = (path.parent / study.recipe).resolve()
    if not base.is_file():
        base = shipped("recipes", study.recipe)
    for key, values in study.axes.items():
        for value in values:
            _check_alone(base, {key: value}, f"axes.{key}")
    for variant in study.variants:
        _check_alone(base, variant.set, f"variants {variant.name!r}")
    cells = []
    keys = list(study.axes)
    for variant in study.variants or [Variant(name="base")]:
        for combination in itertools.product(*study.axes.values()):
            settings = {**variant.set, **dict(zip(keys, combination, strict=True))}
            parts = [variant.name] if study.variants else []
            parts += [
                f"{value}" if key == "method" else f"{key}={value}"
                for key, value in zip(keys, combination, strict=True)
            ]
            column = ", ".join(parts)
            cells += [_cell(base, column, settings, seed) for seed in range(study.seeds)]
    repeated = {cell.column for cell in cells if sum(other.column == cell.column for other in cells) > study.seeds}
    if repeated:
        raise SetClipError(
            f"{path}: {sorted(repeated)[0]!r} is in the study more than once",
            fix="give each value and each variant once",
            exit_code=ExitCode.USAGE,
        )
    return cells


def run_study(path: Path, dataset: Dataset, out: Path, *, jobs: int = 1) -> StudyResult:
    """Runs the cells that are missing and writes the table and the plots.

    A cell that fails does not stop the others; the table shows it.

    Args:
        jobs: Processes; the CPU's threads are shared among them. The numbers do not depend on it.

    Raises:
        SetClipError: the study is not valid, or ``out`` is not ours; exit code 1, after all is written, when cells
            failed.
    """
    started = time.monotonic()
    study = load_study(path)
    cells = plan(study, path)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "scores").is_dir()):
        raise SetClipError(f"{out}: exists and is no study", fix="choose another --out, or remove it yourself")
    (out / "scores").mkdir(parents=True, exist_ok=True)
    possible = [cell for cell in cells if not cell.impossible]
    wanted = _identity(dataset, study)
    missing = [cell for cell in possible if _kept(out, cell, wanted) is None]
    errors = _run_cells(missing, study, dataset, out, wanted, jobs)
    scores = {cell.name: _kept(out, cell, wanted) for cell in possible if cell.name not in errors}
    content = study_report.summarise(study, cells, scores, errors, dataset)
    study_report.write(out, content)
    result = StudyResult(
        out, content, len(missing) - len(errors), len(possible) - len(missing), len(errors), time.monotonic() - started
    )
    if errors:
        name, why = next(iter(errors.items()))
        raise SetClipError(
            f"{out}: {len(errors)} of {len(possible)} cells failed, first {name}: {why}",
            fix=f"see {out / 'study.md'}, mend the cause and run the same command again",
            exit_code=ExitCode.BUG,
        )
    return result


def _run_cells(
    cells: Sequence[Cell], study: Study, dataset: Dataset, out: Path, wanted: dict[str, str], jobs: int
) -> dict[str, str]:
    """Runs cells, the first alone so that its features are in the cache for the others; cell name -> why it failed."""
    work = [(cell, study.split, study.relevance, dataset.root, out, wanted) for cell in cells]
    errors: dict[str, str] = {}

    def done(cell: Cell, why: str) -> None:
        if why:
            errors[cell.name] = why
            note(f"{cell.name}: {why}")

    bar = progress(range(len(work)), label="study", unit="cell")
    alone = work if jobs == 1 else work[:1]
    for job in alone:
        done(job[0], _run_cell(*job, threads=0))
        bar.update()
    if len(alone) < len(work):
        threads = max(1, (os.cpu_count() or 1) // jobs)
        spawn = multiprocessing.get_context("spawn")  # a forked torch may hang
        with ProcessPoolExecutor(min(jobs, len(work) - 1), spawn, _end_with, (os.getpid(),)) as pool:
            running = {pool.submit(_run_cell, *job, threads=threads): job[0] for job in work[1:]}
            try:
                for future in as_completed(running):
                    done(running[future], future.result())
                    bar.update()
            except BaseException:  # stopped: the cells under way resume from their checkpoints, the others wait
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
    bar.close()
    return errors


def _end_with(parent: int) -> None:
    """Ends this worker soon after the study's own process is gone, even one that was killed outright."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_cell(
    cell: Cell, split: str, relevance: str, root: Path, out: Path, wanted: dict[str, str], *, threads: int
) -> str:
    """Trains and scores one cell; in any process. Returns why it failed, or an empty string."""
    import torch

    from setclip_cli.evaluation import targets
    from setclip_cli.evaluation.scoring import point_values
    from setclip_cli.evaluation.testset import read_test_set
    from setclip_cli.shards import open_dataset
    from setclip_cli.trainer import align

    assert cell.recipe is not None  # impossible cells are never run
    if threads:
        torch.set_num_threads(threads)
    try:
        dataset = open_dataset(root)
        run = out / "runs" / cell.name
        align(cell.recipe, dataset, run, resume=True)
        target = targets.open_targets([run])[0]
        test = read_test_set(dataset, *target.modalities, split=split, matching=relevance)
        after, before = targets.embeddings_of(target, dataset, test, _backbones)
        found = {"after": point_values(*after, test), "before": point_values(*before, test) if before else {}}
        atomic.write_json(out / "scores" / f"{cell.name}.json", {**wanted, **found})
    except SetClipError as error:
        return error.problem
    except Exception as error:  # one cell's bug must not lose the others' hours
        atomic.write_text(out / "errors" / f"{cell.name}.txt", traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    return ""


def _cell(base: Path, column: str, settings: dict[str, Value], seed: int) -> Cell:
    overrides = [*_overrides(settings), f"seed={seed}"]
    words = [str(value) if key == "method" else f"{_short(key)}-{value}" for key, value in settings.items()]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(words)).strip("-") or "base"
    try:
        recipe = load_recipe(base, overrides)
    except SetClipError as error:
        reasons = [line.strip(" -") for line in error.problem.splitlines()[1:]]
        return Cell(column, settings, seed, None, f"{slug}_seed-{seed}", "; ".join(reasons) or error.problem)
    digest = hashlib.sha256(recipe.to_toml().encode()).hexdigest()[:8]
    return Cell(column, settings, seed, recipe, f"{slug[:80]}_seed-{seed}_{digest}")


def _short(key: str) -> str:
    """``objective.sdd.weight`` -> ``sdd.weight``: enough to know a folder by."""
    return ".".join(key.split(".")[-2:])


def _check_alone(base: Path, settings: dict[str, Value], where: str) -> None:
    """Raises SetClipError when settings are wrong by themselves; a contradiction with the base is not, yet."""
    try:
        load_recipe(base, _overrides(settings))
    except SetClipError as error:
        if "unknown key" in error.problem or "found" in error.problem:
            raise SetClipError(
                f"{where}: {error.problem}", fix="correct the key or value in the study", exit_code=ExitCode.USAGE
            ) from error


def _overrides(settings: dict[str, Value]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _kept(out: Path, cell: Cell, wanted: dict[str, str]) -> dict[str, Any] | None:
    """The scores of a cell that is finished for this data and split, or None."""
    path = out / "scores" / f"{cell.name}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if {key: found.get(key) for key in wanted} == wanted else None


def _identity(dataset: Dataset, study: Study) -> dict[str, str]:
    return {
        "dataset_sha256": atomic.sha256_file(dataset.root / "dataset.json"),
        "split": study.split,
        "relevance": study.relevance,
    }


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; lists and values are leaves."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
