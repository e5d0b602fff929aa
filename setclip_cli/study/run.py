"""`study`: a grid of recipes and seeds becomes RUNs, one table and its plots.

STUDY.toml                   a base recipe, axes (every combination) or variants (one by one), seeds, metrics
DIR/runs/<cell>/             a RUN for each cell; finished ones are not trained again
DIR/scores/<cell>.json       its metrics on the split, before and after training
DIR/study.json, study.md, *.svg
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.console import note, progress
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.shipped import find
from setclip_cli.study import report as study_report
from setclip_cli.study.grid import load_study, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.study.grid import Cell, Study

_backbones: dict[str, Backbone] = {}  # of this process: a worker scores many cells and loads each backbone once


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


def run_study(path: Path | str, dataset: Dataset, out: Path, *, jobs: int = 1) -> StudyResult:
    """Runs the cells that are missing and writes the table and the plots.

    A cell that fails does not stop the others; the table shows it.

    Args:
        path: STUDY.toml, or the name of a study that comes with the package.
        jobs: Processes; the CPU's threads are shared among them. The numbers do not depend on it.

    Raises:
        SetClipError: the study is not valid, or ``out`` is not ours; exit code 1, after all is written, when cells
            failed.
    """
    started = time.monotonic()
    path = find("studies", path)
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

    from setclip_cli.dataset.dataset import open_dataset
    from setclip_cli.evaluation import targets
    from setclip_cli.evaluation.scoring import point_values
    from setclip_cli.evaluation.test_set import read_test_set
    from setclip_cli.training.align import align

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
