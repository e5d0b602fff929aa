"""What a study found: means and spreads over seeds, differences paired by seed, a table and plots."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.evaluation import figures
from setclip_cli.evaluation.report import number, title
from setclip_cli.files import atomic
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.study.grid import Cell, Study

SCHEMA_VERSION = 1
PLOTTED = 3  # metrics that get a plot


def summarise(
    study: Study,
    cells: Sequence[Cell],
    scores: Mapping[str, Mapping[str, Any] | None],
    errors: Mapping[str, str],
    dataset: Dataset,
) -> dict[str, Any]:
    """study.json: one entry a column, in the order of the study; seeds are paired with those of the first column.

    Args:
        scores: Cell name -> what was found, for the cells that ran.
        errors: Cell name -> why it failed.
    """
    columns: dict[str, list[Cell]] = {}
    for cell in cells:
        columns.setdefault(cell.column, []).append(cell)
    found = {
        name: {cell.seed: kept["after"] for cell in group if (kept := scores.get(cell.name))}
        for name, group in columns.items()
    }
    first = next(iter(found.values()))
    entries = []
    for name, group in columns.items():
        before = [kept["before"] for cell in group if (kept := scores.get(cell.name)) and kept["before"]]
        keys = sorted({key for one in found[name].values() for key in one})
        entries.append(
            {
                "name": name,
                "settings": group[0].settings,
                "impossible": group[0].impossible,
                "cells": [cell.name for cell in group],
                "failed": {cell.name: errors[cell.name] for cell in group if cell.name in errors},
                "metrics": {
                    key: {
                        **_spread([one[key] for one in found[name].values()]),
                        "before": float(np.mean([one[key] for one in before])) if before else None,
                        **paired({seed: one[key] for seed, one in first.items() if key in one},
                                 {seed: one[key] for seed, one in found[name].items()}),
                    }
                    for key in keys
                },
            }
        )  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "setclip_version": __version__,
        "title": study.title,
        "recipe": study.recipe,
        "dataset": {"path": str(dataset.root), "sha256": atomic.sha256_file(dataset.root / "dataset.json")},
        "split": study.split,
        "relevance": study.relevance,
        "seeds": study.seeds,
        "metrics": study.metrics,
        "axes": study.axes,
        "columns": entries,
    }


def paired(first: Mapping[int, float], other: Mapping[int, float]) -> dict[str, Any]:
    """The mean difference to the first column over the seeds that both have, its 95% t interval and p (paired t test).

    Interval and p are None with fewer than two common seeds, or when the differences do not vary.
    """
    seeds = sorted(first.keys() & other.keys())
    if not seeds:
        return {"difference": None, "interval": None, "p": None}
    differences = np.array([other[seed] - first[seed] for seed in seeds])
    mean, spread = float(differences.mean()), float(differences.std(ddof=1)) if len(seeds) > 1 else 0.0
    if len(seeds) < 2 or spread < 1e-12:
        return {"difference": mean, "interval": None, "p": None}
    from scipy import stats

    error = spread / math.sqrt(len(seeds))
    reach = float(stats.t.ppf(0.975, len(seeds) - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, len(seeds) - 1))
    return {"difference": mean, "interval": [mean - reach, mean + reach], "p": p}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "values": [float(value) for value in values]}


def table(content: Mapping[str, Any]) -> str:
    """The columns of the study as rows of a Markdown table: mean ± sd, and the difference of the first metric."""
    metrics = content["metrics"]
    head = ["setting", *map(title, metrics), f"{title(metrics[0])}: difference to the first (95%), p"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for column in content["columns"]:
        if not column["metrics"]:
            why = column["impossible"] or next(iter(column["failed"].values()), "")
            state = "not possible" if column["impossible"] else "failed"
            lines.append(f"| {column['name']} | {state}: {why} |{' |' * (len(head) - 2)}")
            continue
        cells = [_cell(column["metrics"].get(key), key) for key in metrics]
        failed = f" ({len(column['failed'])} failed)" if column["failed"] else ""
        lines.append(f"| {column['name']}{failed} | {' | '.join(cells)} | {_difference(column, content)} |")
    return "\n".join(lines)


def _cell(found: Mapping[str, Any] | None, key: str) -> str:
    if found is None:
        return "–"
    spread = f" ± {number(found['sd'], key)}" if found["sd"] is not None else ""
    before = f"{number(found['before'], key)} → " if key.startswith("geometry/") and found["before"] is not None else ""
    return f"{before}{number(found['mean'], key)}{spread}"


def _difference(column: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    key = content["metrics"][0]
    found = column["metrics"].get(key)
    if found is None or column is content["columns"][0] or found["difference"] is None:
        return ""
    text = number(found["difference"], key, signed=True)
    if found["interval"] is None:
        return text
    low, high = (number(value, key, signed=True) for value in found["interval"])
    return f"{text} ({low} to {high}), p = {found['p']:.2g}"


def write(out: Path, content: Mapping[str, Any]) -> None:
    """Writes the plots, study.md and, last, study.json."""
    drawn = plots(content)
    for name, drawing in drawn.items():
        atomic.write_text(out / name, drawing)
    lines = [
        f"# {content['title']}",
        "",
        f"Mean ± standard deviation over {content['seeds']} seeds on split `{content['split']}` of "
        f"`{content['dataset']['path']}`; differences are paired by seed (t test). Where a value has an arrow, "
        "it is before → after training.",
        "",
        table(content),
        "",
        *(f"![{name.removesuffix('.svg')}]({name})" for name in drawn),
        "",
    ]
    atomic.write_text(out / "study.md", "\n".join(lines))
    atomic.write_json(out / "study.json", dict(content))


def plots(content: Mapping[str, Any]) -> dict[str, str]:
    """File name -> SVG: a metric against the pairs where they are an axis, bars elsewhere."""
    drawn = {}
    for key in content["metrics"][:PLOTTED]:
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
    drawing = figures.bands(ordered, x_label="known pairs", y_label=title(key), chance=None)
    return figures.standalone(drawing, legend=list(ordered), note="bands: ± standard deviation over seeds")


def _bars(columns: Sequence[Mapping[str, Any]], key: str) -> str:
    before = key.startswith("geometry/")
    rows = [
        (column["name"], found["mean"], found["sd"] or 0.0, found["before"] if before else None)
        for column in columns
        for found in [column["metrics"][key]]
    ]
    note = "line: ± standard deviation over seeds" + ("; ring: before training" if before else "")
    return figures.standalone(figures.bars(rows, label=title(key)), note=note)
