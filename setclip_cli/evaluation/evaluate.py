"""`evaluate`: RUNs or EMBEDDINGS and a DATASET become a REPORT.

The DATASET says what counts as a match, every target is scored on the same rows, RUNs that differ in the seed alone are
averaged, and what was found is written as JSON for programs, Markdown for notes and one HTML file for people.
"""

from __future__ import annotations

import platform
import shlex
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.console import note, progress
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.evaluation import baselines as fitted_baselines
from setclip_cli.evaluation import bootstrap, examples, gates, geometry, maps, metrics, report, targets
from setclip_cli.evaluation.scoring import Scores, lower_is_better, point_values, score
from setclip_cli.evaluation.task_set import load_task_set, prompt_prototypes
from setclip_cli.evaluation.test_set import read_test_set
from setclip_cli.files import atomic
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.evaluation.targets import Target
    from setclip_cli.evaluation.task_set import TaskSet
    from setclip_cli.evaluation.test_set import TestSet

    Embeddings = npt.NDArray[np.float32]
    Sides = tuple[Embeddings, Embeddings]

SCHEMA_VERSION = 1
REPORT_NAME = "report.json"
PACKAGES = ("numpy", "torch", "timm", "sentence-transformers", "fair-esm", "pyarrow")


@dataclass(frozen=True)
class Scored:
    """One target with everything found about it."""

    target: Target
    group: str
    sides: Sides
    untrained: Sides | None
    scores: Scores
    before: dict[str, float]


def evaluate(
    paths: Sequence[Path],
    dataset: Dataset,
    out: Path,
    *,
    split: str = "test",
    relevance: str = "label",
    baselines: Sequence[str] = fitted_baselines.DEFAULT,
    task_set: str | None = None,
    fail_under: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores targets on one split and writes ``out``/report.json, report.md and report.html.

    Args:
        paths: RUNs or EMBEDDINGS. The first one is shown in detail.
        dataset: Where the split's ids, labels, groups and pairs come from.
        split: The rows to score.
        relevance: ``label``, ``group`` or ``pairs``.
        baselines: Methods to fit beside the first RUN on its own pairs; empty for none.
        task_set: Name or path of a task set whose prompts stand for the classes; left out, the class means of the
            right rows do.
        fail_under: ``KEY=VALUE`` gates on the metrics of the first method.

    Returns:
        The content of report.json.

    Raises:
        SetClipError: something is missing or does not fit together; exit code 4, after the report is written, when a
            gate is not met.
    """
    thresholds = gates.parse(fail_under)
    task = load_task_set(task_set) if task_set else None
    opened = targets.open_targets(paths)
    check_out(out)
    left, right = opened[0].modalities
    test = read_test_set(dataset, left, right, split=split, matching=relevance)
    if task:
        _check_task(task, test, opened)
    added, left_out = fitted_baselines.fit(opened, dataset, out / "baselines", baselines)
    opened = [*opened, *added]
    names = targets.group_names(opened)
    absent = targets.absent_rows(opened, split)
    if any(absent.values()):
        test = read_test_set(dataset, left, right, split=split, matching=relevance, absent=absent)
    backbones: dict[str, Backbone] = {}
    scored = [
        _score(target, names[target.name], dataset, test, task, backbones)
        for target in progress(opened, label="evaluate", unit="run")
    ]
    content = _content(scored, test, dataset, prompted=task is not None)
    content |= {
        "command": _command(paths, dataset, out, split, relevance, baselines, task_set, fail_under),
        "excluded": test.excluded,
        "baselines_left_out": left_out,
        "gates": gates.judge(thresholds, content["methods"][0]),
    }
    content["summary"] = report.summary(content)
    view = _details(scored[0], test, dataset)
    report.write(out, content, view)
    for sentence, rows in test.excluded.items():
        note(f"left out: {rows} {sentence}")
    gates.enforce(content["gates"], out)
    return content


def check_out(out: Path) -> None:
    """Refuses a folder that holds something else than a report.

    Raises:
        SetClipError: with the way out.
    """
    known = {REPORT_NAME, "report.md", "report.html", "baselines"}
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not known & {path.name for path in out.iterdir()}):
        raise SetClipError(f"{out}: exists and is no REPORT", fix="choose another --out, or remove it yourself")


def _check_task(task: TaskSet, test: TestSet, opened: Sequence[Target]) -> None:
    """Raises SetClipError unless the task set fits; notes the classes that no row has."""
    if task.modality != test.left.modality or test.right.modality != "caption":
        raise SetClipError(
            f"--task-set: classifies {task.modality} rows by captions; the targets embed {test.left.modality} and "
            f"{test.right.modality} rows",
            fix="choose a task set for that modality, or leave it out",
            exit_code=ExitCode.USAGE,
        )
    for target in opened:
        if target.kind == "embeddings":
            raise SetClipError(
                f"{target.path}: holds embeddings alone, and prompts need the caption tower",
                fix="evaluate the RUN itself, or leave --task-set out",
                exit_code=ExitCode.USAGE,
            )
    found = task.matching(test.left.labels)
    if len(found) < 2:
        raise SetClipError(
            f"--task-set: of its {len(task.classes)} classes the rows of split {test.split!r} have {len(found)}",
            fix="check the labels of the dataset against the classes in the task set",
        )
    empty = len(task.classes) - len(set(found.values()))
    if empty:
        test.excluded["classes of the task set without a row"] = empty
    strange = sum(label is not None and label not in found for label in test.left.labels)
    if strange:
        test.excluded[f"{test.left.modality} rows of classes outside the task set, in zero-shot alone"] = strange


def _score(
    target: Target,
    group: str,
    dataset: Dataset,
    test: TestSet,
    task: TaskSet | None,
    backbones: dict[str, Backbone],
) -> Scored:
    sides, untrained = targets.embeddings_of(target, dataset, test, backbones)
    before = point_values(*untrained, test) if untrained else {}
    prompted = None
    if task:
        from setclip_cli.run.model import load_model

        model = load_model(target.path)
        backbone = backbones[model.config.towers["caption"].trained_identity]
        spelled = task.matching(test.left.labels)
        prompted = list(spelled), prompt_prototypes(task, spelled.values(), model, backbone)
    return Scored(target, group, sides, untrained, score(*sides, test, prompted), before)


def _content(scored: Sequence[Scored], test: TestSet, dataset: Dataset, *, prompted: bool) -> dict[str, Any]:
    """report.json, less what `evaluate` adds."""
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one.group, []).append(one)
    methods = [_method(name, members, test) for name, members in groups.items()]
    first = next(iter(groups.values()))
    return {
        "schema_version": SCHEMA_VERSION,
        "setclip_version": __version__,
        "versions": _versions(),
        "dataset": {"path": str(dataset.root), "sha256": atomic.sha256_file(dataset.root / "dataset.json")},
        "split": test.split,
        "relevance": test.matching,
        "modalities": [test.left.modality, test.right.modality],
        "rows": {side.modality: len(side.ids) for side in (test.left, test.right)},
        "queries": {
            f"{test.left.modality}_to_{test.right.modality}": len(first[0].scores.forward.queries),
            f"{test.right.modality}_to_{test.left.modality}": len(first[0].scores.backward.queries),
        },
        "unanswered": {
            test.left.modality: first[0].scores.forward.unanswered,
            test.right.modality: first[0].scores.backward.unanswered,
        },
        "classes": first[0].scores.zero_shot.classes if first[0].scores.zero_shot else [],
        "zero_shot_by": "prompts" if prompted else "class means",
        "targets": [_target(one) for one in scored],
        "methods": methods,
        "differences": _differences(groups),
    }


def _target(one: Scored) -> dict[str, Any]:
    scores = one.scores
    return {
        "name": one.target.name,
        "path": str(one.target.path),
        "kind": one.target.kind,
        "method": one.target.method,
        "group": one.group,
        "seed": one.target.seed,
        "baseline": one.target.baseline,
        "metrics": {
            key: {"value": value, "chance": scores.chance[key], "interval": bootstrap.interval(scores.draws[key])}
            for key, value in scores.values.items()
        },
        "before": one.before,
    }


def _method(name: str, members: Sequence[Scored], test: TestSet) -> dict[str, Any]:
    """Means over the runs of a method; the interval is that of the mean, over queries."""
    summary: dict[str, Any] = {}
    for key, chance in members[0].scores.chance.items():
        values = [one.scores.values[key] for one in members]
        summary[key] = {
            "mean": float(np.mean(values)),
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "interval": bootstrap.interval(np.mean([one.scores.draws[key] for one in members], axis=0)),
            "chance": chance,
            "lower_is_better": lower_is_better(key),
        }
    before = {key: float(np.mean([one.before[key] for one in members])) for key in members[0].before}
    curves = {
        direction: metrics.recall_curve(
            np.concatenate([getattr(one.scores, side).values["first_rank"] for one in members]),
            getattr(members[0].scores, side).gallery,
        )
        for direction, side in _directions(test).items()
    }
    return {
        "name": name,
        "method": members[0].target.method,
        "baseline": members[0].target.baseline,
        "runs": [one.target.name for one in members],
        "metrics": summary,
        "before": before,
        "clip_benchmark": _clip_benchmark(summary, test),
        "recall_curves": curves,
    }


def _directions(test: TestSet) -> dict[str, str]:
    left, right = test.left.modality, test.right.modality
    return {f"{left}_to_{right}": "forward", f"{right}_to_{left}": "backward"}


def _clip_benchmark(summary: Mapping[str, Any], test: TestSet) -> dict[str, float]:
    """The same means under the names that CLIP_benchmark gives them, for images and captions."""
    if (test.left.modality, test.right.modality) != ("image", "caption"):
        return {}
    names = {
        "image_retrieval_recall@5": "caption_to_image/recall_at_5",
        "text_retrieval_recall@5": "image_to_caption/recall_at_5",
        "acc1": "zero_shot/top1",
        "acc5": "zero_shot/top5",
        "mean_per_class_recall": "zero_shot/mean_per_class_recall",
    }
    return {name: summary[key]["mean"] for name, key in names.items() if key in summary}


def _differences(groups: Mapping[str, Sequence[Scored]]) -> list[dict[str, Any]]:
    """The first method less each other one, with the paired bootstrap interval over the same resampled queries."""
    (first, members), *others = groups.items()
    found = []
    for other, rivals in others:
        for key in members[0].scores.values:
            ours, theirs = (
                np.mean([one.scores.draws[key] for one in group], axis=0) for group in (members, rivals)
            )  # fmt: skip
            value = np.mean([one.scores.values[key] for one in members]) - np.mean(
                [one.scores.values[key] for one in rivals]
            )
            low, high = bootstrap.interval(ours - theirs)
            found.append(
                {
                    "method": first,
                    "against": other,
                    "metric": key,
                    "difference": float(value),
                    "interval": [low, high],
                    "significant": bool(low > 0 or high < 0),
                }
            )
    return found


def _details(one: Scored, test: TestSet, dataset: Dataset) -> dict[str, Any]:
    """What only the page shows, of the first target: maps, densities, classes and examples."""
    left, right = one.sides
    drawn = maps.drawn_rows(len(left)), maps.drawn_rows(len(right), seed=1)
    moments = {"after": one.sides} | ({"before": one.untrained} if one.untrained else {})
    there, back = test.relevance()
    shown = [
        (name, *examples.best_and_worst(queries, gallery, answers, ranking, side), side, other)
        for name, queries, gallery, answers, ranking, side, other in (
            ("forward", left, right, there, one.scores.forward, test.left, test.right),
            ("backward", right, left, back, one.scores.backward, test.right, test.left),
        )
    ]
    wanted: dict[str, set[int]] = {test.left.modality: set(), test.right.modality: set()}
    for _, best, worst, side, other in shown:
        for example in (*best, *worst):
            wanted[side.modality].add(example.query)
            wanted[other.modality] |= {answer.row for answer in (*example.found, example.right)}
    classified = one.scores.zero_shot
    mistakes = examples.confusions(classified) if classified else []
    wanted[test.left.modality] |= {mistake.example for mistake in mistakes}
    return {
        "target": one.target.name,
        "maps": {moment: maps.plane_map(sides[0][drawn[0]], sides[1][drawn[1]]) for moment, sides in moments.items()},
        "map_labels": ([test.left.labels[row] for row in drawn[0]], [test.right.labels[row] for row in drawn[1]]),
        "densities": {moment: geometry.similarity_density(*sides) for moment, sides in moments.items()},
        "chance_curves": {
            direction: metrics.chance_curve(answers.counts(), answers.gallery)
            for direction, answers in zip(_directions(test), (there, back), strict=True)
        },
        "zero_shot": classified,
        "confusions": mistakes,
        "examples": [(name, best, worst, side.modality, other.modality) for name, best, worst, side, other in shown],
        "contents": {
            side.modality: examples.contents(dataset, side, test.split, wanted[side.modality])
            for side in (test.left, test.right)
        },
    }


def _command(
    paths: Sequence[Path],
    dataset: Dataset,
    out: Path,
    split: str,
    relevance: str,
    baselines: Sequence[str],
    task_set: str | None,
    fail_under: Sequence[str],
) -> str:
    words = ["setclip", "evaluate", *map(str, paths), str(dataset.root), "--out", str(out)]
    words += ["--split", split, "--relevance", relevance]
    words += ["--baselines", ",".join(baselines) or "none"]
    words += ["--task-set", task_set] if task_set else []
    words += [word for gate in fail_under for word in ("--fail-under", gate)]
    return shlex.join(words)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "setclip": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
