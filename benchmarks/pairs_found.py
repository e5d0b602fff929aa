"""What was measured on true pairs: the best settings, and tables of all methods with them. See ``pairs``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

OURS = "transport"
ORDER = (
    *(OURS, "set-clip-plus", "set-clip", "clip", "cca", "asif", "asif-graph", "procrustes", "ridge"),
    *("sotalign", "structure", "csa", "relative", "mini_vec2vec"),
)
KNOWN = ("0", "20", "50", "200", "0.1", "all")
TUNED = ("50", "200", "0.1")
IN_WORDS = {"0.1": "a tenth"}

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """The records of a file, one a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def key(record: Record) -> tuple[Any, ...]:
    """What was run: no two records have the same."""
    settings = json.dumps(record["settings"], sort_keys=True)
    return *place(record), record["split"], settings, record["seed"]


def place(record: Record) -> tuple[str, str, str]:
    """What a setting is chosen for."""
    return record["data"], record["known"], record["method"]


def choose(records: Iterable[Record]) -> list[Record]:
    """For each data set, number of known items and method the setting with the best mean recall on validation splits.

    Only settings with as many seeds as any other are compared.
    """
    groups: dict[tuple[str, str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["split"] == "validation":
            groups[place(record)][json.dumps(record["settings"], sort_keys=True)].append(record)
    lines = []
    for where, by_settings in groups.items():
        seeds = max(map(len, by_settings.values()))
        whole = [found for found in by_settings.values() if len(found) == seeds]
        best = max(whole, key=lambda found: mean(found, "mean_recall"))
        line = dict(zip(("data", "known", "method"), where, strict=True)) | {"settings": best[0]["settings"]}
        lines.append(line | {"mean_recall": round(mean(best, "mean_recall"), 2), "seeds": seeds, "tried": len(whole)})
    return lines


def tables(records: Iterable[Record]) -> str:
    """Markdown of the test split: ours beside the best other, then all methods, then their settings."""
    groups = by_method(records)
    found = {method for here in groups.values() for method in here}
    methods = [*(method for method in ORDER if method in found), *sorted(found - set(ORDER))]
    beside = [row for where, here in groups.items() if (row := _beside(where, here))]
    every = [
        [*_where(where, here), *(_short(here[method], here) if method in here else "" for method in methods)]
        for where, here in groups.items()
    ]
    columns = ["data, known items", "chance", OURS, "best other", "its setting", "ratio", "ahead in"]
    both = _table([*columns, "mAP by class", "time to fit"], beside), _table([*columns[:2], *methods], every)
    names = list(dict.fromkeys(name for name, _ in groups))
    settings = [[method, *(_settings(groups, name, method) for name in names)] for method in methods if method != OURS]
    return "\n\n".join([*both, _table(["method", *names], settings)])


def _settings(groups: dict[tuple[str, str], dict[str, list[Record]]], name: str, method: str) -> str:
    """The settings of a method with 50 items, 200 and a tenth: one if they are the same."""
    found = [groups[name, known][method][0] for known in TUNED if method in groups.get((name, known), {})]
    different = dict.fromkeys(_setting(record) for record in found)
    return " / ".join(different if len(different) == 1 else [_setting(record) for record in found])


def _setting(record: Record) -> str:
    settings = dict(record["settings"])
    axes = settings.pop("axes", None)
    settings.pop("teacher_axes", None)  # as many, where it is set
    words = [{None: "its own axes", 0: "all axes"}.get(axes, f"{axes} axes")]
    return ", ".join([*words, *(f"{name.rpartition('.')[2]} = {value:g}" for name, value in settings.items())])


def by_method(records: Iterable[Record]) -> dict[tuple[str, str], dict[str, list[Record]]]:
    """The records of the test split by data set and number of known items, then by method."""
    groups: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["split"] == "test":
            groups[record["data"], record["known"]][record["method"]].append(record)
    names = list(dict.fromkeys(name for name, _ in groups))
    return {where: groups[where] for where in sorted(groups, key=lambda w: (names.index(w[0]), KNOWN.index(w[1])))}


def mean(records: Sequence[Record], name: str) -> float:
    return float(np.mean([record[name] for record in records]))


def _beside(where: tuple[str, str], here: dict[str, list[Record]]) -> list[str]:
    """Ours and the other method that does best beside it, over the seeds that both have; nothing if there is none."""
    ours = {record["seed"]: record for record in here.get(OURS, [])}
    others = {method: found for method, found in here.items() if method != OURS}
    beside = {
        method: both
        for method, found in others.items()
        if (both := [(ours[record["seed"]], record) for record in found if record["seed"] in ours])
    }
    if not beside:
        return []
    ratios = {
        method: mean([a for a, _ in both], "mean_recall") / mean([b for _, b in both], "mean_recall")
        for method, both in beside.items()
    }
    best = min(ratios, key=lambda method: ratios[method])
    ahead = sum(a["mean_recall"] > b["mean_recall"] for a, b in beside[best])
    by_class = ""
    if "map" in here[OURS][0]:
        first = max(others, key=lambda method: mean(others[method], "map"))
        by_class = f"{mean(here[OURS], 'map'):.1f} / {mean(others[first], 'map'):.1f} ({first})"
    return [
        *(*_where(where, here), _cell(here[OURS]), f"{best} {_cell(others[best])}", _setting(others[best][0])),
        *(f"{ratios[best]:.2f}", f"{ahead} of {len(beside[best])}", by_class, f"{mean(here[OURS], 'wall_s'):.0f} s"),
    ]


def _where(where: tuple[str, str], here: dict[str, list[Record]]) -> list[str]:
    name, known = where
    first = next(iter(here.values()))[0]
    return [f"{name}, {IN_WORDS.get(known, known)} ({first['pairs']} pairs)", f"{first['chance']:.1f}"]


def _cell(records: Sequence[Record]) -> str:
    values = [record["mean_recall"] for record in records]
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _short(records: Sequence[Record], here: dict[str, list[Record]]) -> str:
    """The mean, and how many seeds it is of if others have more."""
    fewer = len(records) < max(map(len, here.values()))
    return f"{mean(records, 'mean_recall'):.1f}" + (f" ({len(records)})" if fewer else "")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))
