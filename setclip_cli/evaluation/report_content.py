"""The content of report.json: every model, the methods that they are averaged to, and the differences of methods."""

from __future__ import annotations

import platform
import shlex
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.evaluation.bootstrap import confidence_interval
from setclip_cli.evaluation.metric_names import lower_is_better
from setclip_cli.evaluation.metrics import recall_curve
from setclip_cli.places import named
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.evaluation.embedded_sides import Sides
    from setclip_cli.evaluation.evaluation_set import EvaluationSet
    from setclip_cli.evaluation.model_folders import ModelFolder
    from setclip_cli.evaluation.options import EvaluateOptions
    from setclip_cli.evaluation.scoring import Scores
    from setclip_cli.evaluation.trust_metrics import Trust

SCHEMA_VERSION = 1
PACKAGES = ("numpy", "torch", "timm", "sentence-transformers", "fair-esm", "pyarrow")
# CLIP_benchmark's names for images and captions -> ours
CLIP_BENCHMARK_KEYS = {
    "image_retrieval_recall@5": "caption_to_image/recall_at_5",
    "text_retrieval_recall@5": "image_to_caption/recall_at_5",
    "acc1": "zero_shot/top1",
    "acc5": "zero_shot/top5",
    "mean_per_class_recall": "zero_shot/mean_per_class_recall",
}


@dataclass(frozen=True)
class ScoredModel:
    """One model with everything that was found about it.

    Attributes:
        averaged_name: The name that it shares with the models that it is averaged with.
        untrained: The sides before training; None for EMBEDDINGS.
        before: Metric key -> value before training; empty for EMBEDDINGS.
        trust: How right its probabilities are; None without a calibration.
        by_width: Width of nested embeddings -> metric key -> value.
    """

    model: ModelFolder
    averaged_name: str
    sides: Sides
    untrained: Sides | None
    scores: Scores
    before: dict[str, float]
    trust: Trust | None = None
    by_width: dict[int, dict[str, float]] = field(default_factory=dict)


def report_content(
    scored: Sequence[ScoredModel], rows: EvaluationSet, dataset: Dataset, *, prompted: bool
) -> dict[str, Any]:
    """report.json, except for what `evaluate` adds about its own options."""
    methods: dict[str, list[ScoredModel]] = {}
    for one in scored:
        methods.setdefault(one.averaged_name, []).append(one)
    first = scored[0].scores
    left_to_right, right_to_left = rows.directions()
    return {
        "schema_version": SCHEMA_VERSION,
        "setclip_version": __version__,
        "versions": _installed_versions(),
        "dataset": {"path": named(dataset.root), "sha256": dataset.identity()},
        "split": rows.split,
        "relevance": rows.rule,
        "modalities": [rows.left.modality, rows.right.modality],
        "rows": {side.modality: len(side.ids) for side in (rows.left, rows.right)},
        "excluded": rows.excluded,
        "joins": [join.as_json() for join in rows.joins],
        "queries": {
            left_to_right: len(first.left_to_right.queries),
            right_to_left: len(first.right_to_left.queries),
        },
        "unanswered": {
            rows.left.modality: first.left_to_right.unanswered,
            rows.right.modality: first.right_to_left.unanswered,
        },
        "classes": first.zero_shot.classes if first.zero_shot else [],
        "zero_shot_by": "prompts" if prompted else "class means",
        "targets": [_model_entry(one) for one in scored],
        "methods": [_method_entry(name, members, rows) for name, members in methods.items()],
        "differences": _differences_to_first(methods),
        **_trust_entry(scored[0]),
    }


def _trust_entry(first: ScoredModel) -> dict[str, Any]:
    """The reliability of the first model; nothing without a calibration."""
    if first.trust is None:
        return {}
    bins = [
        {"mean_probability": judged, "share_right": right, "answers": count}
        for judged, right, count in first.trust.reliability
    ]
    return {"trust": {"model": first.model.name, "reliability": bins}}


def _shared_keys(members: Sequence[ScoredModel]) -> list[str]:
    """The metrics of the first that all have: some may lack a calibration."""
    first, *others = members
    return [key for key in first.scores.metrics if all(key in one.scores.metrics for one in others)]


def _model_entry(one: ScoredModel) -> dict[str, Any]:
    return {
        "name": one.model.name,
        "path": named(one.model.path),
        "kind": one.model.kind,
        "method": one.model.method,
        "group": one.averaged_name,
        "seed": one.model.seed,
        "baseline": one.model.baseline,
        "metrics": {
            key: {
                "value": metric.value,
                "chance": metric.chance,
                "interval": confidence_interval(metric.resampled),
            }
            for key, metric in one.scores.metrics.items()
        },
        "before": one.before,
    }


def _method_entry(name: str, members: Sequence[ScoredModel], rows: EvaluationSet) -> dict[str, Any]:
    """Means over the runs of a method; the interval is that of the mean, over queries."""
    entries: dict[str, Any] = {}
    for key in _shared_keys(members):
        metric = members[0].scores.metrics[key]
        values = [one.scores.metrics[key].value for one in members]
        entries[key] = {
            "mean": float(np.mean(values)),
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "interval": confidence_interval(_mean_resampled(members, key)),
            "chance": metric.chance,
            "lower_is_better": lower_is_better(key),
        }
    rankings = [(one.scores.left_to_right, one.scores.right_to_left) for one in members]
    images_and_captions = (rows.left.modality, rows.right.modality) == (
        "image",
        "caption",
    )  # as that project names them
    return {
        "name": name,
        "method": members[0].model.method,
        "baseline": members[0].model.baseline,
        "runs": [one.model.name for one in members],
        "metrics": entries,
        "before": {key: float(np.mean([one.before[key] for one in members])) for key in members[0].before},
        **_width_entry(members),
        "clip_benchmark": {
            theirs: entries[ours]["mean"]
            for theirs, ours in CLIP_BENCHMARK_KEYS.items()
            if images_and_captions and ours in entries
        },
        "recall_curves": {
            direction: recall_curve(
                np.concatenate([ranking.values["first_rank"] for ranking in of_direction]), of_direction[0].gallery
            )
            for direction, of_direction in zip(rows.directions(), zip(*rankings, strict=True), strict=True)
        },
    }


def _width_entry(members: Sequence[ScoredModel]) -> dict[str, Any]:
    """Means over the runs at each width of nested embeddings; nothing for others."""
    widths = [width for width in members[0].by_width if all(width in one.by_width for one in members)]
    means = [
        {
            "width": width,
            "metrics": {
                key: float(np.mean([one.by_width[width][key] for one in members])) for key in members[0].by_width[width]
            },
        }
        for width in widths
    ]
    return {"widths": means} if means else {}


def _differences_to_first(methods: Mapping[str, Sequence[ScoredModel]]) -> list[dict[str, Any]]:
    """The first method minus each other one, with the paired bootstrap interval over the same resampled queries."""
    (first, members), *others = methods.items()
    found = []
    for other, rivals in others:
        for key in _shared_keys([*members, *rivals]):
            ours, theirs = (
                np.mean([one.scores.metrics[key].value for one in group]) for group in (members, rivals)
            )  # fmt: skip
            low, high = confidence_interval(_mean_resampled(members, key) - _mean_resampled(rivals, key))
            found.append(
                {
                    "method": first,
                    "against": other,
                    "metric": key,
                    "difference": float(ours - theirs),
                    "interval": [low, high],
                    "significant": bool(low > 0 or high < 0),
                }
            )
    return found


def _mean_resampled(members: Sequence[ScoredModel], key: str) -> npt.NDArray[np.float64]:
    """Bootstrap distribution of the mean over runs."""
    mean: npt.NDArray[np.float64] = np.mean([one.scores.metrics[key].resampled for one in members], axis=0)
    return mean


def command_line(models: Sequence[Path], dataset: Path, out: Path, options: EvaluateOptions) -> str:
    """The command that makes the same report."""
    words = ["setclip", "evaluate", *map(named, models), named(dataset), "--out", named(out)]
    words += ["--split", options.split, "--relevance", options.relevance]
    words += ["--baselines", ",".join(options.baselines) or "none"]
    words += ["--task-set", options.task_set] if options.task_set else []
    words += [word for gate in options.fail_under for word in ("--fail-under", gate)]
    return shlex.join(words)


def _installed_versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "setclip": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
