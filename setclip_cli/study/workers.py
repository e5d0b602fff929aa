"""Trains and scores the runs of a study, in this process or in several."""

from __future__ import annotations

import functools
import os
import traceback
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from setclip_cli.console import note, progress
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.embedded_sides import embedded_sides
from setclip_cli.evaluation.evaluation_set import read_evaluation_set
from setclip_cli.evaluation.model_folders import open_model_folders
from setclip_cli.evaluation.scoring import point_values
from setclip_cli.files import atomic
from setclip_cli.files.documents import unsigned, write_document
from setclip_cli.files.write_errors import WriteError
from setclip_cli.processes import run_in_processes
from setclip_cli.training.align import align

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.evaluation.options import RelevanceRule
    from setclip_cli.study.planned_runs import PlannedRun
    from setclip_cli.study.study_file import Study

LOST = "its process was killed, most likely because memory ran out"
_backbones: dict[str, Backbone] = {}  # of this process: a worker scores many runs and loads each backbone once


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study, with what its runs have in common."""

    out: Path
    study: Study
    dataset: Path
    dataset_sha256: str
    relevance: RelevanceRule

    def scores_path(self, run: PlannedRun) -> Path:
        return self.out / "scores" / f"{run.name}.json"

    def scored_on(self) -> dict[str, str]:
        """What scores must have been measured on to be used again."""
        return {
            "dataset_sha256": self.dataset_sha256,
            "split": self.study.split,
            "relevance": self.relevance,
        }

    def finished_scores(self, run: PlannedRun) -> dict[str, Any] | None:
        """The metrics of a finished run ``before`` and ``after`` training, or None."""
        path = self.scores_path(run)
        if not path.is_file():
            return None
        try:
            found, unchanged = unsigned(path.read_bytes())
        except ValueError:
            unchanged = False
        if not unchanged:
            note(f"note: {path}: has changed since it was written; this run is scored again")
            return None
        wanted = self.scored_on()
        return found if {key: found.get(key) for key in wanted} == wanted else None


def execute_runs(runs: Sequence[PlannedRun], folder: StudyFolder, *, jobs: int) -> dict[str, str]:
    """Trains and scores runs. The first runs alone, so that its features are in the cache for the others.

    Returns:
        Name of each failed run -> why it failed.
    """
    failures: dict[str, str] = {}
    bar = progress(range(len(runs)), label="study", unit="run")

    def finished(run: PlannedRun, failure: str) -> None:
        if failure:
            failures[run.name] = failure
            note(f"{run.name}: {failure}")
        bar.update()

    alone = len(runs) if jobs == 1 else 1
    for run in runs[:alone]:
        finished(run, train_and_score(run, folder, threads=None))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    work = functools.partial(train_and_score, folder=folder, threads=threads)
    with closing(run_in_processes(work, runs[alone:], processes=jobs)) as results:
        for ended in results:
            finished(ended.job, ended.results[0] if ended.results else LOST)
    bar.close()
    return failures


def train_and_score(run: PlannedRun, folder: StudyFolder, *, threads: int | None) -> str:
    """Trains and scores one run. Returns why it failed, or an empty string.

    Args:
        threads: Of the CPU; None for torch's default.
    """
    assert run.recipe is not None  # a run that contradicts itself is never started
    if threads:
        torch.set_num_threads(threads)
    try:
        dataset = open_dataset(folder.dataset)
        if dataset.identity() != folder.dataset_sha256:
            raise SetClipError(
                f"{folder.dataset}: an ingest has changed it since this study began",
                fix="run the study again with a new folder",
            )
        run_folder = folder.out / "runs" / run.name
        align(run.recipe, dataset, run_folder, resume=True)
        model = open_model_folders([run_folder])[0]
        rows = read_evaluation_set(dataset, *model.modalities, split=folder.study.split, rule=folder.relevance)
        after, before = embedded_sides(model, dataset, rows, _backbones)
        found = {"after": point_values(*after, rows), "before": point_values(*before, rows) if before else {}}
        write_document(folder.scores_path(run), {**folder.scored_on(), **found})
    except WriteError:
        raise  # the other runs, and the table, cannot be written either
    except SetClipError as error:
        return error.problem
    except Exception as error:  # a bug in one run must not lose hours of the others
        atomic.write_text(folder.out / "errors" / f"{run.name}.txt", traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    return ""
