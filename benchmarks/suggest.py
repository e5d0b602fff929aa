"""How much the items that `setclip suggest` takes are worth, against random ones. Prints one JSON line.

    export OMP_NUM_THREADS=1
    python benchmarks/suggest.py --data ../shared/data --records suggest.jsonl
    python benchmarks/suggest.py --records suggest.jsonl --table       # Markdown of what was measured

An annotator is simulated: where there are true pairs, it gives all texts of the item; where there are classes, a random
item of the same class. ``random`` and ``random-1.5`` draw items at random, the second half as many again. ``cover``
takes as many items of each class, which reads labels; the others do not. ``later`` is another question: so many random
pairs are known, and as many are added: random ones (``random``), suggested ones (``suggest``), or ones suggested with
an alignment of the known pairs (``suggest-run``).

Settings were chosen with ``--split validation``; ``--split test`` (default) scores on items that it never touches.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import alignment
import measured
import numpy as np
import numpy.typing as npt
import pairs as true_alignment
import torch
import true_pairs
from scipy.stats import t as student

from setclip_cli.encoders import FeatureTransform
from setclip_cli.encoders.graph import kept_graphs
from setclip_cli.labelling.choose import AXES, choose_rows
from setclip_cli.labelling.unsure import return_trips
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.fit import fit

COUNTS = dict.fromkeys(measured.SOURCES, (7, 21, 70)) | dict.fromkeys(("rsicd", "flickr8k"), (20, 50, 200))
DRAWS = ("random", "random-1.5", "cover", "suggest")
LATER = ("random", "suggest", "suggest-run")
Rows = npt.NDArray[np.int64]


class Classes:
    """One seed's pools with classes, natural shares of them, and an annotator who knows the class."""

    score_name = "map"

    def __init__(self, name: str, seed: int, given: argparse.Namespace) -> None:
        left, right = measured.load(name, given.data, given.cache)
        self.problem = measured.draw(left, right, 1, seed, counts="natural", split=given.split)
        self.left, self.right = self.problem.left.features, self.problem.right.features
        self.labels = self.problem.left.labels
        self._random = np.random.default_rng([seed, 77])
        self._partners: dict[int, int] = {}

    def answered(self, rows: Rows) -> torch.Tensor:
        """(b, 2) the pairs of these items; an item has the same partner each time it is asked about."""
        for row in rows.tolist():
            if row not in self._partners:
                alike = np.flatnonzero(self.problem.right.labels == self.labels[row])
                self._partners[row] = int(self._random.choice(alike))
        return torch.tensor([(row, self._partners[row]) for row in rows.tolist()])

    def encoders(self, rows: Rows, method: str, seed: int) -> Any:
        recipe = load_recipe(alignment.RECIPE, [f'method="{method}"', f"seed={seed}", f"pairs={len(rows)}"])
        return fit(recipe, self.left, self.right, self.answered(rows)).encoders

    @torch.no_grad()
    def score(self, rows: Rows, method: str, seed: int) -> dict[str, float]:
        encoders = self.encoders(rows, method, seed)
        scored = self.problem.left_scored.features, self.problem.right_scored.features
        left, right = (encoder(features) for encoder, features in zip(encoders, scored, strict=True))
        return measured.score(left, right, self.problem)


class TruePairs:
    """One seed's pools with true pairs; one text of each item is in the pool until its item is asked about."""

    score_name = "mean_recall"

    def __init__(self, name: str, seed: int, given: argparse.Namespace) -> None:
        self.data, self.seed = true_pairs.load(name, given.data, given.cache), seed
        self._split = given.split
        nothing = true_pairs.draw(self.data, 0, seed, split=given.split)
        self.left, self.right = nothing.left, nothing.right
        self.labels = self.data.labels[nothing.pool]

    def problem(self, rows: Rows) -> true_pairs.Problem:
        return true_pairs.draw(self.data, rows, self.seed, split=self._split)

    def encoders(self, rows: Rows, method: str, seed: int) -> Any:
        problem = self.problem(rows)
        recipe = true_alignment.recipe_of(method, {}, seed=seed)
        return fit(recipe, problem.left, problem.right, problem.pairs).encoders

    def score(self, rows: Rows, method: str, seed: int) -> dict[str, float]:
        problem = self.problem(rows)
        (left, right), _ = true_alignment.embed(problem, self.data, method, {}, seed)
        return true_alignment.score(left, right, problem, self.data, recall_alone=True)


def draw(pools: Classes | TruePairs, how: str, count: int, seed: int, known: Rows, method: str) -> Rows | None:
    """Rows of the left pool to ask about; None where the draw is not possible."""
    random = np.random.default_rng([seed, 78])
    free = np.setdiff1d(np.arange(len(pools.left)), known)
    if how == "cover":
        names = sorted({name for name in pools.labels if name})
        if not names:
            return None
        order = {
            name: random.permutation(free[pools.labels[free] == name]).tolist() for name in random.permutation(names)
        }
        rounds = [rows[turn] for turn in range(count) for rows in order.values() if turn < len(rows)]
        return np.array(rounds[:count])
    if how.startswith("random"):
        return random.permutation(free)[: math.ceil(count * 1.5) if how == "random-1.5" else count]
    weights = None
    if how == "suggest-run":
        encoders = pools.encoders(known, method, seed)
        with torch.no_grad():
            embedded = [
                torch.nn.functional.normalize(encoder(side), dim=1)
                for encoder, side in zip(encoders, (pools.left, pools.right), strict=True)
            ]
        weights = return_trips(embedded[0], embedded[1], pools.left)
    rows = FeatureTransform.fit(pools.left, AXES)(pools.left)
    return np.array([row for row, _ in choose_rows(rows, count, seed=seed, known=known.tolist(), weights=weights)])


def measure(pools: Classes | TruePairs, record: dict[str, Any]) -> dict[str, Any] | None:
    """Draws, fits and scores."""
    count, seed, method = record["count"], record["seed"], record["method"]
    known = np.zeros(0, np.int64)
    if record["later"]:
        known = np.random.default_rng([seed, 79]).permutation(len(pools.left))[:count]
    started = time.perf_counter()
    rows = draw(pools, record["draw"], count, seed, known, method)
    if rows is None:
        return None
    chosen = time.perf_counter()
    asked = np.concatenate([known, rows])
    found = pools.score(asked, method, seed)
    return {
        "score": found[pools.score_name],
        "items": len(asked),
        "classes": len(set(pools.labels[asked])),
        "choose_s": chosen - started,
        "fit_s": time.perf_counter() - chosen,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: the mean score of each draw, and how far ``suggest`` is ahead with half its 95% interval."""
    lines = []
    for later in (False, True):
        draws = LATER if later else DRAWS
        ours = draws[-1]
        cells: dict[tuple[str, str, int], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        for each in records:
            if each["later"] == later:
                cells[each["data"], each["method"], each["count"]][each["draw"]][each["seed"]] = each["score"]
        if not cells:
            continue
        heads = [*draws, *(f"{ours} - {other}" for other in draws[:-1])]
        lines += ["", f"| data | method | items | {' | '.join(heads)} | seeds |"]
        lines += ["| --- | --- | ---: |" + " ---: |" * (len(heads) + 1)]
        for (data, method, count), by_draw in cells.items():
            means = [f"{np.mean(list(by_draw[how].values())):.1f}" if by_draw[how] else "" for how in draws]
            ahead = [_ahead(by_draw[ours], by_draw[other]) for other in draws[:-1]]
            items = f"{count} + {count}" if later else count
            lines.append(f"| {data} | {method} | {items} | {' | '.join([*means, *ahead])} | {len(by_draw[ours])} |")
    return "\n".join(lines).strip()


def _ahead(ours: dict[int, float], other: dict[int, float]) -> str:
    values = [ours[seed] - other[seed] for seed in ours if seed in other]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:+.1f}"
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):+.1f} ± {half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--records", type=Path, default=Path("suggest.jsonl"))
    parser.add_argument("--names", nargs="+", default=list(COUNTS), choices=list(COUNTS))
    parser.add_argument("--counts", nargs="+", type=int, help="items (default: those of the data set)")
    parser.add_argument("--draws", nargs="+", help="(default: all)")
    parser.add_argument("--classes-by", nargs="+", default=["asif-graph"], help="methods for data with classes")
    parser.add_argument("--pairs-by", nargs="+", default=["transport"], help="methods for data with true pairs")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--later", action="store_true", help="as many random pairs are known already")
    parser.add_argument("--table", action="store_true", help="print Markdown of the records and stop")
    given = parser.parse_args()

    lines = given.records.read_text().splitlines() if given.records.exists() else []
    records = [json.loads(line) for line in lines]
    if given.table:
        print(table(records))
        return
    keys = ("data", "split", "method", "count", "draw", "later", "seed")
    done = {tuple(record[key] for key in keys) for record in records}
    for seed in given.seeds:
        for name in given.names:
            pools: Classes | TruePairs | None = None
            with kept_graphs():
                for method in given.classes_by if name in measured.SOURCES else given.pairs_by:
                    for count in given.counts or COUNTS[name]:
                        for how in given.draws or (LATER if given.later else DRAWS):
                            values = (name, given.split, method, count, how, given.later, seed)
                            if values in done:
                                continue
                            kind = Classes if name in measured.SOURCES else TruePairs
                            pools = pools or kind(name, seed, given)
                            record = dict(zip(keys, values, strict=True))
                            if (found := measure(pools, record)) is None:
                                continue
                            records.append(record | found)
                            with given.records.open("a") as file:
                                file.write(json.dumps(records[-1]) + "\n")
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(machine | {"records": len(records)}))


if __name__ == "__main__":
    main()
