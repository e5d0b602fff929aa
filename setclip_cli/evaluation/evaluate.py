"""`evaluate`: RUNs or EMBEDDINGS and a DATASET become a REPORT.

All models are scored on the same rows, and RUNs that differ in the seed alone are averaged. The report is written as
JSON for programs, as Markdown for notes and as one HTML page for people.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.console import note, progress, warning
from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.dataset.modality import KINDS_OF_NAMES
from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.evaluation.auto_relevance import relevance_of_models
from setclip_cli.evaluation.baselines import align_baselines
from setclip_cli.evaluation.embedded_sides import embedded_sides, ids_without_embedding
from setclip_cli.evaluation.evaluation_set import read_evaluation_set
from setclip_cli.evaluation.gates import check_threshold_keys, judge_gates
from setclip_cli.evaluation.model_folders import averaged_names, open_model_folders
from setclip_cli.evaluation.options import EvaluateOptions
from setclip_cli.evaluation.page_details import page_details
from setclip_cli.evaluation.pages import summary_sentences, write_report
from setclip_cli.evaluation.pairs_of_training import LEFT_OUT, without_pairs_of_training
from setclip_cli.evaluation.prompts import prompt_prototypes
from setclip_cli.evaluation.report import REPORT_NAME, Report
from setclip_cli.evaluation.report_content import ScoredModel, command_line, report_content
from setclip_cli.evaluation.scoring import metric_keys, point_values, score, values_by_width
from setclip_cli.evaluation.task_set import load_task_set
from setclip_cli.evaluation.trust_metrics import calibration_for, judge_trust
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.files.what_is import what_is
from setclip_cli.joins import Join, Side, check
from setclip_cli.options import path_of
from setclip_cli.remote.arguments import takes_places
from setclip_cli.run.model import load_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.evaluation.evaluation_set import EvaluationSet
    from setclip_cli.evaluation.model_folders import ModelFolder
    from setclip_cli.evaluation.task_set import TaskSet


@takes_places("models", "dataset", writes="out")
def evaluate(
    models: str | Path | Sequence[str | Path],
    dataset: str | Path | Dataset,
    out: str | Path,
    options: EvaluateOptions = EvaluateOptions(),
) -> Report:
    """Scores models on one split and writes ``out``/report.json, report.md and report.html.

    Args:
        models: One or several RUNs or EMBEDDINGS. The report shows the first one in detail.
        dataset: Gives the split's ids, labels, groups and pairs.

    Returns:
        The report. `Report.check_gates` raises if a gate of ``options.fail_under`` is not met.

    Raises:
        SetClipError: an option is wrong, or something is missing or does not fit together; before anything is scored.
    """
    paths = [path_of(path, "models") for path in ([models] if isinstance(models, str | Path) else models)]
    out = path_of(out, "out")
    if not paths:
        raise UsageError(f"{argument('models')}: there is none", fix="give at least one RUN or EMBEDDINGS folder")
    task = load_task_set(options.task_set) if options.task_set else None
    if not isinstance(dataset, Dataset):
        _refuse_wrong_order(paths, Path(dataset), out)
        dataset = open_dataset(dataset)
    given = open_model_folders(paths)
    refuse_foreign(out, "a REPORT folder", [REPORT_NAME, "report.md", "report.html", "baselines"])
    without = ids_without_embedding(given, options.split)
    rule, reason = relevance_of_models(options, given, dataset, without)
    rows = read_evaluation_set(
        dataset, *given[0].modalities, split=options.split, rule=rule, without_embedding=without
    )  # fmt: skip
    rows = without_pairs_of_training(rows, given, dataset)
    if reason:
        note(f"relevance: {rule} ({reason})")
    if task:
        _check_task_set(task, rows, given)
    calibrated = calibration_for(given[0], rows) is not None
    check_threshold_keys(options.thresholds(), metric_keys(rows, prompted=task is not None, calibrated=calibrated))

    with exclusive(out):
        baselines, left_out = align_baselines(given, dataset, out / "baselines", options.baselines)
        names = averaged_names([*given, *baselines])
        backbones: dict[str, Backbone] = {}
        scored = [
            _score_model(model, names[model.name], dataset, rows, task, backbones)
            for model in progress([*given, *baselines], label="evaluate", unit="model")
        ]

        content = report_content(scored, rows, dataset, prompted=task is not None)
        content["command"] = command_line(paths, dataset.root, out, replace(options, relevance=rule))
        content["relevance_reason"] = reason
        content["baselines_left_out"] = left_out
        content["gates"] = judge_gates(options.thresholds(), content["methods"][0])
        content["summary"] = summary_sentences(content)
        for sentence in _cautions(given, rows, options.split):
            content["summary"] += f" {sentence}"
            warning(sentence)
        write_report(out, content, page_details(scored[0], rows, dataset))
    for sentence, count in rows.excluded.items():
        note(f"left out: {count} {sentence}")
    if left_out and options.baselines:
        note(f"baselines left out: {left_out}")
    return Report(out, content)


def _cautions(given: Sequence[ModelFolder], rows: EvaluationSet, split: str) -> Iterator[str]:
    """Why the figures may say less than they seem to."""
    known = dict.fromkeys(model.name for model in given if model.recipe.get("train", {}).get("split") == split)
    if known and LEFT_OUT in rows.excluded:
        yield (
            f"{', '.join(known)}: training saw the rows of split {split}, but not the pairs that are asked for here."
        )
    elif known:
        yield (
            f"{', '.join(known)}: the rows of split {split} were used for training too, so these figures do not say "
            "how well it works on new rows."
        )
    classes = {label for side in (rows.left, rows.right) for label in side.labels if label is not None}
    if rows.rule == "label" and len(classes) == 1:
        yield f"All labels of split {split} are {next(iter(classes))!r}, so every answer counts as right."


def _refuse_wrong_order(paths: Sequence[Path], dataset: Path, out: Path) -> None:
    """Raises SetClipError if the DATASET is among the models and a model is in its place."""
    datasets = [path for path in paths if what_is(path).kind == "dataset"]
    last = what_is(dataset)
    if datasets and last.kind in ("run", "embeddings"):
        models = [*(path for path in paths if path not in datasets), dataset]
        raise UsageError(
            f"{datasets[0]} is a DATASET, and {dataset} {last.words}: they are in the wrong order",
            fix=f"setclip evaluate {' '.join(map(str, models))} {datasets[0]} --out {out}",
        )


def _check_task_set(task: TaskSet, rows: EvaluationSet, models: Sequence[ModelFolder]) -> None:
    """Raises SetClipError unless the task set fits; counts classes without rows and rows without a class."""
    shown = argument("task_set")
    if KINDS_OF_NAMES.get(task.modality) != rows.left.kind or rows.right.kind != "text":
        raise UsageError(
            f"{shown}: classifies {task.modality} rows by captions, but the models embed {rows.left.modality} and "
            f"{rows.right.modality} rows",
            fix=f"choose a task set for {rows.left.modality} rows, or leave {shown} out",
        )
    for model in models:
        if model.kind == "embeddings":
            raise UsageError(
                f"{model.path}: holds embeddings only, and prompts need the {rows.right.modality} tower",
                fix=f"evaluate the RUN itself, or leave {shown} out",
            )
    labels = sorted({label for label in rows.left.labels if label is not None})
    found = task.matching(labels)
    if len(found) < 2:
        raise SetClipError(
            f"{shown}: has {len(task.classes)} classes, and the rows of split {rows.split!r} have {len(found)} of "
            f"them: for example {next(iter(task.classes))!r} in the task set, {next(iter(labels), None)!r} in the rows",
            fix="compare the labels of the dataset with the classes of the task set",
        )
    join = Join(
        Side.of("classes of the task set", task.classes, set(found.values())),
        Side.of(f"{rows.left.modality} classes of split {rows.split}", labels, found),
        both=True,
    )
    rows.joins.append(check(join, fix=""))
    empty = len(task.classes) - len(set(found.values()))
    if empty:
        rows.excluded["classes of the task set without a row"] = empty
    strange = sum(label is not None and label not in found for label in rows.left.labels)
    if strange:
        sentence = f"{rows.left.modality} rows of classes outside the task set, in zero-shot classification only"
        rows.excluded[sentence] = strange


def _score_model(
    model: ModelFolder,
    averaged_name: str,
    dataset: Dataset,
    rows: EvaluationSet,
    task: TaskSet | None,
    backbones: dict[str, Backbone],
) -> ScoredModel:
    sides, untrained = embedded_sides(model, dataset, rows, backbones)
    before: dict[str, Any] = point_values(*untrained, rows) if untrained else {}
    prompted = None
    if task:
        spelled, towers = task.matching(rows.left.labels), load_model(model.path)
        backbone = backbones[towers.config.towers[rows.right.modality].trained_identity]
        encoder = towers.encoders[rows.right.modality]
        prompted = list(spelled), prompt_prototypes(task, spelled.values(), encoder, backbone)
    scores, calibration = score(*sides, rows, prompted), calibration_for(model, rows)
    trust = judge_trust(calibration, *sides, rows) if calibration else None
    if trust:
        scores = replace(scores, metrics=scores.metrics | trust.metrics)
    by_width = values_by_width(*sides, rows, model.nested)
    return ScoredModel(model, averaged_name, sides, untrained, scores, before, trust, by_width)
