"""Rows without a partner, where half of the classes are on one side alone. Prints one JSON line.

    export OMP_NUM_THREADS=1
    python benchmarks/unmatched.py --data ../shared/data --records unmatched.jsonl
    python benchmarks/unmatched.py --records unmatched.jsonl --table

RSICD (Lu et al. 2018) with the images of AID (Xia et al. 2017), 30 classes. If the right side is lacking, the captions
of half of the classes are not in their pool, so their images have no partner; if the left one is, the images are not.
``auroc`` is that of the probability of no partner, among rows that are not known; ``covered`` says whether the 95%
interval holds the true share. ``mean_recall`` is that of method transport with ``unmatched`` auto and keep, among the
test items of the classes that both sides have. Labels decide what is taken out, and no more.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pairs as pairs_benchmark
import torch
import true_pairs
from scipy.stats import mannwhitneyu
from torch import Tensor

from setclip_cli.training.fit import fit_method
from setclip_cli.trust.unmatched import UnmatchedRows, unmatched_rows

LACKING = ("right", "left", "none")
KNOWN = (50, 200)


@dataclass(frozen=True)
class Lacking:
    """A problem of which one pool lacks half of the classes; what is scored is of classes that both pools have.

    Attributes:
        problem: The pools hold five texts of a known item and one of each other.
        unmatched: (n,) and (m,) bool: the rows whose class the other pool lacks.
    """

    problem: true_pairs.Problem
    unmatched: tuple[np.ndarray, np.ndarray]


def draw(data: true_pairs.Items, known: int, lacking: str, seed: int) -> Lacking:
    """One seed's problem. The classes that are gone, the known items and the order are drawn anew for each seed."""
    random = np.random.default_rng([seed, 23])
    texts_of = true_pairs.texts_of_items(data)
    classes = np.unique(data.labels)
    gone = random.permutation(classes)[: len(classes) // 2] if lacking != "none" else classes[:0]
    pool = random.permutation(np.flatnonzero(~data.test))
    both = ~np.isin(data.labels[pool], gone)
    is_known = np.zeros(len(pool), bool)
    is_known[np.flatnonzero(both)[:known]] = True
    of_left, of_right = (pool[both] if side == lacking else pool for side in ("left", "right"))
    named = set(pool[is_known].tolist())
    chosen = [texts_of[item] if item in named else random.choice(texts_of[item], 1) for item in of_right.tolist()]
    owners = np.repeat(of_right, [len(rows) for rows in chosen])
    order = random.permutation(len(owners))
    owners, texts = owners[order], np.concatenate(chosen)[order]
    row_of = {item: row for row, item in enumerate(of_left.tolist())}
    ends = [(row_of[item], row) for row, item in enumerate(owners.tolist()) if item in named]
    items = np.flatnonzero(data.test & ~np.isin(data.labels, gone))
    problem = true_pairs.Problem(
        data.features[torch.from_numpy(of_left)],
        data.texts[torch.from_numpy(texts)],
        torch.tensor(sorted(ends)),
        items,
        np.concatenate([texts_of[item] for item in items]),
        of_left,
        texts,
    )
    absent = [np.isin(data.labels[rows], gone) for rows in (of_left, owners)]
    return Lacking(problem, (absent[0] & (lacking == "right"), absent[1] & (lacking == "left")))


def measure(drawn: Lacking, data: true_pairs.Items, seed: int, *, fits: bool) -> dict[str, Any]:
    """What is found of one problem; with ``fits`` also how well method transport does on it."""
    problem = drawn.problem
    started = time.perf_counter()
    found = unmatched_rows(problem.left, problem.right, problem.pairs, problem.pairs[:, 0], seed=seed)
    result: dict[str, Any] = {"wall_s": time.perf_counter() - started}
    for number, (name, of_side, lone) in enumerate(zip(("left", "right"), found, drawn.unmatched, strict=True)):
        result |= {f"{name}/{key}": value for key, value in of(of_side, lone, problem.pairs[:, number]).items()}
    return result | (recalls(problem, data, seed) if fits else {})


def of(found: UnmatchedRows, lone: np.ndarray, known: Tensor) -> dict[str, Any]:
    """Of one side."""
    free = np.ones(len(lone), bool)
    free[known.numpy()] = False
    scores, truth = found.probabilities.numpy()[free], lone[free]
    result: dict[str, Any] = {
        "share": float(lone.mean()),
        "estimate": found.share,
        "covered": bool(found.interval[0] <= lone.mean() <= found.interval[1]),
        "certain": found.certain,
    }
    if truth.any():
        wins = mannwhitneyu(scores[truth], scores[~truth]).statistic
        result["auroc"] = float(wins / (int(truth.sum()) * int((~truth).sum())))
    return result


def recalls(problem: true_pairs.Problem, data: true_pairs.Items, seed: int) -> dict[str, float]:
    """Mean recall of method transport that leaves rows out, and of one that keeps them."""
    found = {}
    for choice in ("auto", "keep"):
        recipe = pairs_benchmark.recipe_of("transport", {"unmatched": f'"{choice}"'}, seed=seed)
        fitted = fit_method(recipe, problem.left, problem.right, problem.pairs)
        with torch.no_grad():
            left = fitted.encoders[0](data.features[torch.from_numpy(problem.items)])
            right = fitted.encoders[1](data.texts[torch.from_numpy(problem.texts)])
        scores = pairs_benchmark.score(left, right, problem, data, recall_alone=True)
        found[f"mean_recall/{choice}"] = scores["mean_recall"]
    return found


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: mean and standard deviation over seeds."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["lacking"], record["known"]].append(record)
    lines = [
        "| the side that lacks classes | known items | seeds | AUROC | share, true | share, estimated | mean error | "
        "largest error | 95% interval holds it | mean recall, keep | mean recall, auto |",
        "| --- |" + " --- |" * 10,
    ]
    for (lacking, known), of_group in groups.items():
        side = "right" if lacking == "left" else "left"
        share, estimate = (np.array([one[f"{side}/{key}"] for one in of_group]) for key in ("share", "estimate"))
        recall = [
            [one[f"mean_recall/{choice}"] for one in of_group if f"mean_recall/{choice}" in one]
            for choice in ("keep", "auto")
        ]
        auroc = [one[f"{side}/auroc"] for one in of_group if f"{side}/auroc" in one]
        cells = [
            lacking,
            str(known),
            str(len(of_group)),
            spread(auroc, 3) if auroc else "",
            f"{share.mean():.2f}",
            spread(list(estimate), 2),
            f"{np.abs(estimate - share).mean():.3f}",
            f"{np.abs(estimate - share).max():.2f}",
            f"{sum(one[f'{side}/covered'] for one in of_group)} of {len(of_group)}",
            *(spread(values, 1) + f" ({len(values)})" if values else "" for values in recall),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    sd = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{sd}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with rsicd_pairs/")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument(
        "--records", type=Path, required=True, help="a line of JSON for each problem; adds what is missing"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--fits", type=int, default=3, help="seeds for which method transport is fitted too")
    parser.add_argument("--table", action="store_true", help="print Markdown of the records and measure nothing")
    given = parser.parse_args()
    records = [json.loads(line) for line in given.records.read_text().splitlines()] if given.records.exists() else []
    if given.table:
        print(table(records))
        return
    data = true_pairs.load("rsicd", given.data, given.cache)
    done = {(record["lacking"], record["known"], record["seed"]) for record in records}
    for seed in range(given.seeds):
        for lacking in LACKING:
            for known in KNOWN:
                if (lacking, known, seed) in done:
                    continue
                found = measure(draw(data, known, lacking, seed), data, seed, fits=seed < given.fits)
                records.append({"lacking": lacking, "known": known, "seed": seed} | found)
                with given.records.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "unmatched"} | machine | {"records": len(records)}))


if __name__ == "__main__":
    main()
