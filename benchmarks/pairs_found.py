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
    """Markdown of the test split: ours beside the best other, then all methods."""
    groups = by_method(records)
    found = {method for here in groups.values() for method in here}
    methods = [*(method for method in ORDER if method in found), *sorted(found - set(ORDER))]
    beside = [_beside(where, here) for where, here in groups.items() if OURS in here and len(here) > 1]
    every = [
        [*_where(where, here), *(_short(here[method], here) if method in here else "" for method in methods)]
        for where, here in groups.items()
    ]
    columns = ["data, known items", "chance", OURS, "best other", "its setting", "ratio", "ahead in"]
    both = _table([*columns, "mAP by class", "time to fit"], beside), _table([*columns[:2], *methods], every)
    return "\n\n".join(both)


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
    """Ours and the best other method, over the seeds that both have."""
    ours = here[OURS]
    others = {method: found for method, found in here.items() if method != OURS}
    best = max(others, key=lambda method: mean(others[method], "mean_recall"))
    theirs = {record["seed"]: record for record in others[best]}
    both = [(record, theirs[record["seed"]]) for record in ours if record["seed"] in theirs]
    ratio = mean([a for a, _ in both], "mean_recall") / mean([b for _, b in both], "mean_recall") if both else np.nan
    ahead = sum(a["mean_recall"] > b["mean_recall"] for a, b in both)
    setting = ", ".join(f"{name} = {value}" for name, value in others[best][0]["settings"].items())
    cells = [*_where(where, here), _cell(ours), f"{best} {_cell(others[best])}", setting, f"{ratio:.2f}"]
    by_class = ""
    if "map" in ours[0]:
        first = max(others, key=lambda method: mean(others[method], "map"))
        by_class = f"{mean(ours, 'map'):.1f} / {mean(others[first], 'map'):.1f} ({first})"
    return [*cells, f"{ahead} of {len(both)}", by_class, f"{mean(ours, 'wall_s'):.0f} s"]


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
