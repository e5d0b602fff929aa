"""The findings of a study: means and spreads over seeds, differences paired by seed, a table and plots."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from setclip_cli.console import code_in_markdown, in_markdown
from setclip_cli.evaluation import figures
from setclip_cli.evaluation.formatting import format_metric, format_spread, metric_title
from setclip_cli.files import atomic
from setclip_cli.files.documents import signed
from setclip_cli.places import named
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.evaluation.options import RelevanceRule
    from setclip_cli.study.planned_runs import PlannedRun
    from setclip_cli.study.study_file import Study

SCHEMA_VERSION = 1
METRICS_PLOTTED = 3


def study_content(
    study: Study,
    runs: Sequence[PlannedRun],
    scores: Mapping[str, Mapping[str, Any] | None],
    failures: Mapping[str, str],
    dataset: Dataset,
    relevance: RelevanceRule,
) -> dict[str, Any]:
    """study.json: one entry for each combination of settings, in the order of the study.

    Args:
        scores: Run name -> metrics ``before`` and ``after`` training, for the runs that finished.
        failures: Run name -> why it failed.
        relevance: What counted as a right answer.
    """
    combinations: dict[str, list[PlannedRun]] = {}
    for run in runs:
        combinations.setdefault(run.combination, []).append(run)
    first = _by_seed(next(iter(combinations.values())), scores, "after")
    return {
        "schema_version": SCHEMA_VERSION,
        "setclip_version": __version__,
        "title": study.title,
        "recipe": study.recipe,
        "dataset": {"path": named(dataset.root), "sha256": dataset.identity()},
        "split": study.split,
        "relevance": relevance,
        "seeds": study.seeds,
        "metrics": study.metrics,
        "axes": study.axes,
        "columns": [
            {
                "name": name,
                "settings": members[0].settings,
                "impossible": members[0].contradiction,
                "cells": [run.name for run in members],
                "failed": {run.name: failures[run.name] for run in members if run.name in failures},
                "metrics": _metric_entries(
                    _by_seed(members, scores, "after"), _by_seed(members, scores, "before"), first
                ),
            }
            for name, members in combinations.items()
        ],
    }


def _by_seed(
    runs: Sequence[PlannedRun], scores: Mapping[str, Mapping[str, Any] | None], moment: str
) -> dict[int, dict[str, float]]:
    """Seed -> metrics, of the runs that finished and have metrics of that moment."""
    return {run.seed: found[moment] for run in runs if (found := scores.get(run.name)) and found[moment]}


def _metric_entries(
    after: Mapping[int, Mapping[str, float]],
    before: Mapping[int, Mapping[str, float]],
    first: Mapping[int, Mapping[str, float]],
) -> dict[str, Any]:
    """Metric key -> mean and spread over seeds, mean before training, and difference to the first combination."""
    return {
        key: {
            **_spread([found[key] for found in after.values()]),
            "before": float(np.mean([found[key] for found in before.values()])) if before else None,
            **paired_difference(
                {seed: found[key] for seed, found in first.items() if key in found},
                {seed: found[key] for seed, found in after.items()},
            ),
        }
        for key in sorted({key for found in after.values() for key in found})
    }


def paired_difference(first: Mapping[int, float], other: Mapping[int, float]) -> dict[str, Any]:
    """Mean of ``other`` minus ``first`` over the seeds that both have, with 95% t interval and p (paired t test).

    Interval and p are None with fewer than two common seeds, or if the differences do not vary.
    """
    seeds = sorted(first.keys() & other.keys())
    if not seeds:
        return {"difference": None, "interval": None, "p": None}
    differences = np.array([other[seed] - first[seed] for seed in seeds])
    mean, spread = float(differences.mean()), float(differences.std(ddof=1)) if len(seeds) > 1 else 0.0
    if len(seeds) < 2 or spread < 1e-12:
        return {"difference": mean, "interval": None, "p": None}
    error = spread / math.sqrt(len(seeds))
    reach = float(stats.t.ppf(0.975, len(seeds) - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, len(seeds) - 1))
    return {"difference": mean, "interval": [mean - reach, mean + reach], "p": p}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "values": [float(value) for value in values]}


def markdown_table(content: Mapping[str, Any]) -> str:
    """A Markdown table with a row for each combination: mean ± sd, and the difference of the first metric."""
    metrics = content["metrics"]
    head = ["setting", *map(metric_title, metrics), f"{metric_title(metrics[0])}: difference to the first (95%), p"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for column in content["columns"]:
        if not column["metrics"]:
            why = column["impossible"] or next(iter(column["failed"].values()), "")
            state = "not possible" if column["impossible"] else "failed"
            lines.append(f"| {in_markdown(column['name'])} | {state}: {in_markdown(why)} |{' |' * (len(head) - 2)}")
            continue
        cells = [_table_cell(column["metrics"].get(key), key) for key in metrics]
        failed = f" ({len(column['failed'])} failed)" if column["failed"] else ""
        lines.append(
            f"| {in_markdown(column['name'])}{failed} | {' | '.join(cells)} | {_difference_cell(column, content)} |"
        )
    return "\n".join(lines)


def _table_cell(found: Mapping[str, Any] | None, key: str) -> str:
    if found is None:
        return "–"
    before = format_metric(found["before"], key) if key.startswith("geometry/") and found["before"] is not None else ""
    return f"{before} → {format_spread(found, key)}" if before else format_spread(found, key)


def _difference_cell(column: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    key = content["metrics"][0]
    found = column["metrics"].get(key)
    if found is None or column is content["columns"][0] or found["difference"] is None:
        return ""
    text = format_metric(found["difference"], key, signed=True)
    if found["interval"] is None:
        return text
    low, high = (format_metric(value, key, signed=True) for value in found["interval"])
    return f"{text} ({low} to {high}), p = {found['p']:.2g}"


def write_study(out: Path, content: Mapping[str, Any]) -> None:
    """Writes the plots, study.md and, last, study.json."""
    drawn = study_plots(content)
    lines = [
        f"# {in_markdown(content['title'])}",
        "",
        f"Mean ± standard deviation over {content['seeds']} seeds on split {code_in_markdown(content['split'])} of "
        f"{code_in_markdown(content['dataset']['path'])}; differences are paired by seed (t test). An arrow "
        "means before → after training.",
        "",
        markdown_table(content),
        "",
        *(f"![{name.removesuffix('.svg')}]({name})" for name in drawn),
        "",
    ]
    files = {**drawn, "study.md": "\n".join(lines), "study.json": signed(dict(content))}
    atomic.write_texts({out / name: text for name, text in files.items()})


def study_plots(content: Mapping[str, Any]) -> dict[str, str]:
    """File name -> SVG: a metric against the number of pairs if that is an axis, else bars."""
    drawn = {}
    for key in content["metrics"][:METRICS_PLOTTED]:
        columns = [column for column in content["columns"] if key in column["metrics"]]
        if not columns:
            continue
        counts = [value for value in content["axes"].get("pairs", []) if not isinstance(value, str)]
        drawing = _against_pairs(columns, key) if len(counts) > 1 else _bars(columns, key)
        drawn[f"{key.replace('/', '-')}.svg"] = drawing
    return drawn


def _against_pairs(columns: Sequence[Mapping[str, Any]], key: str) -> str:
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for column in columns:
        pairs = column["settings"]["pairs"]
        if isinstance(pairs, str):
            continue
        others = [part for part in column["name"].split(", ") if not part.startswith("pairs=")]
        found = column["metrics"][key]
        curves.setdefault(", ".join(others) or "all", []).append((pairs, found["mean"], found["sd"] or 0.0))
    ordered = {name: sorted(points) for name, points in curves.items()}
    drawing = figures.band_figure(
        ordered, x_label="known pairs, as the recipe counts them", y_label=metric_title(key), chance=None
    )
    return figures.standalone_svg(drawing, legend=list(ordered), note="bands: ± standard deviation over seeds")


def _bars(columns: Sequence[Mapping[str, Any]], key: str) -> str:
    before = key.startswith("geometry/")
    rows = [
        (column["name"], found["mean"], found["sd"] or 0.0, found["before"] if before else None)
        for column in columns
        for found in [column["metrics"][key]]
    ]
    note = "line: ± standard deviation over seeds" + ("; ring: before training" if before else "")
    return figures.standalone_svg(figures.bar_figure(rows, label=metric_title(key)), note=note)
