"""How well `check-pairs` finds wrong pairs, and what dropping them gives back. Prints one JSON line.

    export OMP_NUM_THREADS=1
    python benchmarks/suspects.py --records suspects.jsonl                       # how well they are found
    python benchmarks/suspects.py --records suspects.jsonl --recover --seeds 0 1 2
    python benchmarks/suspects.py --records suspects.jsonl --table

True pairs (benchmarks/true_pairs.py): each known item has all its texts. ``--units`` says what is shuffled: ``pair``:
single texts change places with texts of other items; ``item``: whole items have each other's texts; ``single``: items
are known with one text each, and these change places. Classes (``rs``, ``protein`` of benchmarks/measured.py): a pair
is two random rows of a class, a wrong one has a right row of another class.

``auroc`` is that of the probability against the truth. ``--recover`` fits ``transport`` with its default shares,
without the choice on held-out pairs that takes most of its time, to the clean pairs, to the spoilt ones, to those
without the likely wrong ones, and to those without the truly wrong ones; mean recall as in benchmarks/pairs.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import measured
import numpy as np
import pairs as pairs_benchmark
import torch
import true_pairs
from scipy.stats import rankdata
from torch import Tensor

from setclip_cli.encoders import FeatureTransform, side_by_side
from setclip_cli.methods.kernel_regression import fit_kernel_regression, part_whitened
from setclip_cli.methods.partners import DEFAULT
from setclip_cli.methods.transport import fit_transport
from setclip_cli.trust.suspects import Sides, read_sides, suspects_among

TRUE = ("rsicd", "flickr8k")
CLASSES = ("rs", "protein")
AXES = 384  # of transport
SHARES = (0.0, 0.05, 0.1, 0.2)
KEYS = ("data", "split", "known", "unit", "share", "seed", "kind")


def spoil(pairs: Tensor, share: float, unit: str, seed: int) -> tuple[Tensor, Tensor]:
    """The pairs with some partners changed, and (b,) bool: which are wrong."""
    random = np.random.default_rng([seed, 23])
    spoilt, wrong = pairs.clone(), torch.zeros(len(pairs), dtype=torch.bool)
    if not share:
        return spoilt, wrong
    if unit == "item":
        items = np.unique(pairs[:, 0].numpy())
        chosen = random.permutation(items)[: max(2, round(share * len(items)))]
        changed = dict(zip(chosen.tolist(), np.roll(chosen, 1).tolist(), strict=True))
        spoilt[:, 0] = torch.tensor([changed.get(row, row) for row in pairs[:, 0].tolist()])
        return spoilt, torch.isin(pairs[:, 0], torch.from_numpy(chosen))
    while True:  # until no text comes back to its own item
        places = random.permutation(len(pairs))[: max(2, round(share * len(pairs)))]
        others = np.roll(places, 1)
        if bool((pairs[places, 0] != pairs[others, 0]).all()):
            break
    spoilt[places, 1], wrong[places] = pairs[others, 1], True
    return spoilt, wrong


def spoil_classes(problem: measured.Draw, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """The pairs of a draw with some right rows of other classes, and which are wrong."""
    random = np.random.default_rng([seed, 23])
    spoilt, wrong = problem.pairs.clone(), torch.zeros(len(problem.pairs), dtype=torch.bool)
    for place in random.permutation(len(spoilt))[: round(share * len(spoilt))]:
        label = problem.left.labels[int(spoilt[place, 0])]
        spoilt[place, 1] = int(random.choice(np.flatnonzero(problem.right.labels != label)))
        wrong[place] = True
    return spoilt, wrong


def auroc(suspicion: Tensor, wrong: Tensor) -> float | None:
    """None if no pair is wrong."""
    bad = int(wrong.sum())
    if not bad:
        return None
    ranks = rankdata(suspicion.numpy())[wrong.numpy()].sum()
    return float((ranks - bad * (bad + 1) / 2) / (bad * (len(wrong) - bad)))


def checked(sides: Sides, pairs: Tensor, items: Tensor, wrong: Tensor, seed: int) -> dict[str, Any]:
    """What `check-pairs` says of them."""
    started = time.process_time()
    found = suspects_among(sides, pairs, items, seed=seed)
    likely = found.likely()
    return {
        "auroc": auroc(found.probability, wrong),
        "pairs": len(pairs),
        "wrong": int(wrong.sum()),
        "flagged": len(likely),
        "found": int(wrong[likely].sum()),
        "expected": found.expected,
        "interval": found.interval,
        "cpu_s": time.process_time() - started,
    }


class Recall:
    """Mean recall of `transport` with its default shares on one problem."""

    def __init__(self, problem: true_pairs.Problem, data: true_pairs.Items, seed: int) -> None:
        self.problem, self.data, self.seed = problem, data, seed
        self.transforms = FeatureTransform.fit(problem.left, AXES), FeatureTransform.fit(problem.right, AXES)
        self.x, self.y = self.transforms[0](problem.left), self.transforms[1](problem.right)
        self.whitened = part_whitened(self.x), part_whitened(self.y)
        scored = data.features[torch.from_numpy(problem.items)], data.texts[torch.from_numpy(problem.texts)]
        self.scored = self.transforms[0](scored[0]), self.transforms[1](scored[1])

    def of(self, pairs: Tensor) -> float:
        maps = side_by_side(
            [
                fit_transport(self.x, self.y, pairs, seed=self.seed, share=DEFAULT.unpaired),
                fit_kernel_regression(self.x, self.y, pairs, seed=self.seed, whitened=self.whitened),
            ],
            [DEFAULT.linear, DEFAULT.kernel],
        )
        left, right = (part(rows) for part, rows in zip(maps, self.scored, strict=True))
        return pairs_benchmark.score(left, right, self.problem, self.data, recall_alone=True)["mean_recall"]


def one_text_each(pairs: Tensor) -> Tensor:
    """The first text of each item; pairs of an item are together."""
    return pairs[torch.cat([torch.tensor([True]), pairs[1:, 0] != pairs[:-1, 0]])]


def true_records(given: argparse.Namespace, name: str, known: str, seed: int, done: set[Any]) -> Any:
    kind = "recover" if given.recover else "find"
    wanted = [
        record
        for unit, share in product(given.units, given.shares if not given.recover else [s for s in given.shares if s])
        if key(record := dict(zip(KEYS, (name, given.split, known, unit, share, seed, kind), strict=True))) not in done
    ]
    if not wanted:
        return
    data = true_pairs.load(name, given.data, given.cache)
    problem = true_pairs.draw(data, pairs_benchmark.count(known, data), seed, split=given.split)
    sides = read_sides(problem.left, problem.right)
    recall, clean = (Recall(problem, data, seed), {}) if given.recover else (None, {})
    for record in wanted:
        pairs = one_text_each(problem.pairs) if record["unit"] == "single" else problem.pairs
        spoilt, wrong = spoil(pairs, record["share"], record["unit"], seed)
        if recall is None:
            yield record | checked(sides, spoilt, spoilt[:, 0], wrong, seed)
            continue
        whole = record["unit"] == "single"
        if whole not in clean:
            clean[whole] = recall.of(pairs)
        found = suspects_among(sides, spoilt, spoilt[:, 0], seed=seed)
        kept = torch.ones(len(spoilt), dtype=torch.bool)
        kept[found.likely()] = False
        yield record | {
            "clean": clean[whole],
            "spoilt": recall.of(spoilt),
            "dropped": recall.of(spoilt[kept]),
            "truth": recall.of(spoilt[~wrong]),
        }


def class_records(given: argparse.Namespace, name: str, known: str, seed: int, done: set[Any]) -> Any:
    tables = measured.load(name, given.data, given.cache)
    problem = measured.draw(*tables, int(known), seed, counts="natural", split=given.split)
    sides = read_sides(problem.left.features, problem.right.features)
    for share in given.shares:
        record = dict(zip(KEYS, (name, given.split, known, "class", share, seed, "find"), strict=True))
        if key(record) in done:
            continue
        spoilt, wrong = spoil_classes(problem, share, seed)
        yield record | checked(sides, spoilt, torch.arange(len(spoilt)), wrong, seed)


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What was measured."""
    return tuple(record[name] for name in KEYS)


def table(records: list[dict[str, Any]]) -> str:
    """Markdown of the test split."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record["split"] == "test":
            groups[record["kind"], record["data"], record["known"], record["unit"], record["share"]].append(record)
    lines = [
        "| data, known | shuffled | wrong | AUROC | called likely wrong | of these wrong | expected number | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    back = [
        "| data, known | shuffled | clean | spoilt | without the suspects | without the wrong | recovered | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (kind, name, known, unit, share), here in sorted(groups.items(), key=str):
        mean = {k: float(np.mean([r[k] for r in here])) for k, v in here[0].items() if isinstance(v, int | float)}
        of = f"{name}, {'a tenth' if known == '0.1' else known} | {share:.0%} by {unit}" if share else ""
        if kind == "find":
            place = of or f"{name}, {'a tenth' if known == '0.1' else known} | none ({unit})"
            quality = f"{mean['auroc']:.3f}" if share else ""
            counts = f"{mean['wrong']:.0f} of {mean['pairs']:.0f}"
            found = f"{mean['flagged']:.1f} | {mean['found']:.1f} | {mean['expected']:.0f}"
            lines.append(f"| {place} | {counts} | {quality} | {found} | {len(here)} |")
        else:
            loss, gain = mean["clean"] - mean["spoilt"], mean["dropped"] - mean["spoilt"]
            values = " | ".join(f"{mean[k]:.1f}" for k in ("clean", "spoilt", "dropped", "truth"))
            share_back = f"{gain:+.1f} of {loss:.1f}" + (f" ({gain / loss:.0%})" if loss > 0 else "")
            back.append(f"| {of} | {values} | {share_back} | {len(here)} |")
    return "\n".join([*lines, "", *back])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--records", type=Path, default=Path("suspects.jsonl"))
    parser.add_argument("--names", nargs="+", default=list(TRUE), choices=[*TRUE, *CLASSES])
    parser.add_argument("--known", nargs="+", default=["50", "200", "0.1"], help="known items; 0.1 is a share")
    parser.add_argument("--units", nargs="+", default=["pair", "item", "single"], choices=["pair", "item", "single"])
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--recover", action="store_true", help="fit transport with and without the suspects")
    parser.add_argument("--table", action="store_true", help="print Markdown of the records and stop")
    given = parser.parse_args()

    records = [json.loads(line) for line in given.records.read_text().splitlines()] if given.records.exists() else []
    if given.table:
        print(table(records))
        return
    done = {key(record) for record in records}
    for seed, name, known in product(given.seeds, given.names, given.known):
        make = class_records if name in CLASSES else true_records
        for record in make(given, name, known, seed, done):
            records.append(record)
            with given.records.open("a") as file:
                file.write(json.dumps(record) + "\n")
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(machine | {"records": len(records)}))


if __name__ == "__main__":
    main()
