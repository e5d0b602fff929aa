"""`study`: a study file becomes RUNs, one table and its plots.

STUDY.toml                   a base recipe, axes (every combination) or variants (one by one), seeds, metrics
DIR/runs/<run>/              a RUN for each combination and seed; finished ones are not trained again
DIR/scores/<run>.json        its metrics on the split, before and after training
DIR/study.json, study.md, *.svg
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.console import note, visible
from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.evaluation.auto_relevance import choose_relevance
from setclip_cli.files import atomic
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.files.shipped import find
from setclip_cli.options import path_of
from setclip_cli.remote.arguments import takes_places
from setclip_cli.study.planned_runs import plan_runs
from setclip_cli.study.report import markdown_table, study_content, write_study
from setclip_cli.study.study_file import load_study
from setclip_cli.study.workers import StudyFolder, execute_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.evaluation.options import RelevanceRule
    from setclip_cli.study.planned_runs import PlannedRun
    from setclip_cli.study.study_file import Study


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        content: The content of study.json.
        trained, reused, failed: Numbers of runs.
    """

    out: Path
    content: dict[str, Any]
    trained: int
    reused: int
    failed: int
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        return {"out": str(self.out), "trained": self.trained, "reused": self.reused, "failed": self.failed,
                "wall_s": round(self.wall_s, 1), "study": self.content}  # fmt: skip

    def summary(self) -> str:
        counts = f"{self.trained} runs trained, {self.reused} found finished, {self.failed} failed, {self.wall_s:.0f} s"
        return f"{markdown_table(self.content)}\n{counts}; see {visible(self.out / 'study.md')}"


@takes_places("dataset")
def run_study(study_file: str | Path, dataset: str | Path | Dataset, out: str | Path, *, jobs: int = 1) -> StudyResult:
    """Trains and scores the runs that are missing, and writes the table and the plots.

    A run that fails does not stop the others; the table shows it.

    Args:
        study_file: STUDY.toml, or the name of a study that comes with the package.
        jobs: Processes; they share the threads of the CPU. The numbers do not depend on it.

    Raises:
        SetClipError: the study is not valid, the data has no right answers for it, or ``out`` holds something else;
            exit code 1, after all is written, if runs failed.
    """
    started = time.monotonic()
    study_file, out = find("studies", study_file), path_of(out, "out")
    study = load_study(study_file)
    planned = plan_runs(study, study_file)
    dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    refuse_foreign(out, "a study folder", ["scores"])
    possible = [run for run in planned if not run.contradiction]
    relevance = _relevance(study, possible, dataset)
    folder = StudyFolder(out, study, dataset.root, dataset.identity(), relevance)
    with exclusive(out):
        atomic.make_folder(out / "scores")
        missing = [run for run in possible if folder.finished_scores(run) is None]
        failures = execute_runs(missing, folder, jobs=jobs)
        scores = {run.name: folder.finished_scores(run) for run in possible if run.name not in failures}
        content = study_content(study, planned, scores, failures, dataset, relevance)
        write_study(out, content)
    if failures:
        name, why = next(iter(failures.items()))
        raise SetClipError(
            f"{out}: {len(failures)} of {len(possible)} runs failed, first {name}: {why}",
            fix=f"see {out / 'study.md'}, remove the cause and run the same command again",
            exit_code=ExitCode.BUG,
        )
    return StudyResult(
        out, content, len(missing), len(possible) - len(missing), len(failures), time.monotonic() - started
    )


def _relevance(study: Study, runs: Sequence[PlannedRun], dataset: Dataset) -> RelevanceRule:
    """What counts as a right answer for every run: the methods of a study may differ, so the data alone decides."""
    if study.relevance != "auto":
        return study.relevance
    recipe = next((run.recipe for run in runs if run.recipe), None)
    if recipe is None:
        return "label"  # no run is possible, so nothing is scored
    rule, reason = choose_relevance(dataset, *recipe.modalities(), split=study.split)
    note(f"relevance: {rule} ({reason})")
    return rule
