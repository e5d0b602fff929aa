"""How well each method finds the one partner of an item, on four data sets with true pairs. Prints one JSON line.

    OMP_NUM_THREADS=1 python benchmarks/pairs.py --data ../shared/data --records pairs.jsonl
    python benchmarks/pairs.py --records pairs.jsonl --table       # Markdown of what was measured

``--known`` counts items, each known with all its texts; a number with a point is a share. Every other item has one text
in the pool, and nothing says which. ``mean_recall`` is the mean of recall at 1, 5 and 10 in both directions among the
items of the split and all their texts; a text that is word for word that of a right one is right too. ``by_group`` is
the same without that. ``map`` is by class, where there are classes. Settings were chosen with ``--split validation``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import rivals
import torch
import true_pairs
from torch import Tensor

from setclip_cli.evaluation import metrics
from setclip_cli.evaluation.relevance import Relevance, relevance_by_key, relevance_by_pairs
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.fit import fit

RECIPE = Path(__file__).with_name("alignment.toml")
METHODS = ("transport", "set-clip-plus", "set-clip", "clip", "cca", "asif", "procrustes", "ridge")
RECALLS = (1, 5, 10)
SCORES = ("mean_recall", "by_group", "map", "median_rank", "wall_s")


def embed(problem: true_pairs.Problem, data: true_pairs.Items, method: str, axes: int | None, seed: int) -> Any:
    """Embeddings of the scored items and texts, and what the fit found out."""
    scored = data.features[torch.from_numpy(problem.items)], data.texts[torch.from_numpy(problem.texts)]
    if method in rivals.RIVALS:
        settings = {} if axes is None else {"axes": axes}
        encoders = rivals.RIVALS[method](problem.left, problem.right, problem.pairs, seed=seed, **settings)
        return [encoder(rows) for encoder, rows in zip(encoders, scored, strict=True)], {}
    changed = [f'method="{method}"', f"seed={seed}", *([] if axes is None else [f"projection.pca={axes}"])]
    fitted = fit(load_recipe(RECIPE, changed), problem.left, problem.right, problem.pairs)
    with torch.no_grad():
        return [encoder(rows) for encoder, rows in zip(fitted.encoders, scored, strict=True)], fitted.findings


def score(left: Tensor, right: Tensor, problem: true_pairs.Problem, data: true_pairs.Items) -> dict[str, float]:
    """Of unit embeddings, in percent but for ranks."""
    place = {item: row for row, item in enumerate(problem.items.tolist())}
    own = [place[item] for item in data.item_of[problem.texts].tolist()]
    same_words: dict[int, list[int]] = defaultdict(list)
    for column, wording in enumerate(data.wording[problem.texts].tolist()):
        same_words[wording].append(column)
    equal = {(row, other) for columns in same_words.values() for row in {own[c] for c in columns} for other in columns}
    sizes = {"queries": len(problem.items), "gallery": len(problem.texts)}
    by_words = relevance_by_pairs(sorted(equal), **sizes), _turned(equal, sizes)
    by_group = (
        relevance_by_pairs(list(zip(own, range(len(own)), strict=True)), **sizes),
        relevance_by_key([str(row) for row in own], [str(row) for row in range(len(problem.items))]),
    )
    found = {}
    for name, relevance in (("mean_recall", by_words), ("by_group", by_group)):
        both = [
            metrics.mean_over_queries(metrics.retrieve(a, b, answers, recall_at=RECALLS).values)
            for a, b, answers in zip(
                (left.numpy(), right.numpy()), (right.numpy(), left.numpy()), relevance, strict=True
            )
        ]
        found[name] = 100 * float(np.mean([means[f"recall_at_{k}"] for means in both for k in RECALLS]))
        if name == "mean_recall":
            found["median_rank"] = float(np.mean([means["median_rank"] for means in both]))
            for direction, means in zip(("left_to_right", "right_to_left"), both, strict=True):
                found |= {f"{direction}/recall_at_{k}": 100 * means[f"recall_at_{k}"] for k in RECALLS}
    labels = data.labels[problem.items]
    if all(labels):
        of_texts = data.labels[data.item_of[problem.texts]]
        both = [
            metrics.mean_over_queries(metrics.retrieve(a.numpy(), b.numpy(), relevance_by_key(list(x), list(y))).values)
            for a, b, x, y in ((left, right, labels, of_texts), (right, left, of_texts, labels))
        ]
        found["map"] = 100 * float(np.mean([means["map"] for means in both]))
    return found


def _turned(pairs: set[tuple[int, int]], sizes: dict[str, int]) -> Relevance:
    return relevance_by_pairs(
        sorted((column, row) for row, column in pairs), queries=sizes["gallery"], gallery=sizes["queries"]
    )


def chance(problem: true_pairs.Problem, data: true_pairs.Items) -> float:
    """Mean recall of embeddings that are all the same."""
    left, right = torch.ones(len(problem.items), 1), torch.ones(len(problem.texts), 1)
    return score(left, right, problem, data)["mean_recall"]


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a table for each data set and number of known items, best first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["data"], record["split"], record["known"], record["method"], record["axes"]].append(record)
    lines: list[str] = []
    for name, split, known in dict.fromkeys(key[:3] for key in groups):
        here = {key[3:]: found for key, found in groups.items() if key[:3] == (name, split, known)}
        first = next(iter(here.values()))[0]
        lines += [f"\n### {name}, {known} known items ({first['pairs']} pairs), {split} split\n"]
        lines += [f"Chance: {first['chance']:.1f}; {first['scored']} items are scored.\n"]
        lines += ["| method | axes | mean recall | by group | mAP by class | median rank | seconds | seeds |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        for (method, axes), found in sorted(here.items(), key=lambda item: -_mean(item[1], "mean_recall")):
            cells = [_cell(found, name) for name in SCORES]
            lines.append(f"| {method} | {axes or 'its own'} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join(lines)


def _mean(records: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([record[name] for record in records]))


def _cell(records: list[dict[str, Any]], name: str) -> str:
    if name not in records[0]:
        return ""
    values = [record[name] for record in records]
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--records", type=Path, default=Path("pairs.jsonl"))
    parser.add_argument("--names", nargs="+", default=list(true_pairs.SOURCES), choices=list(true_pairs.SOURCES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=[*METHODS, "auto", *rivals.RIVALS])
    parser.add_argument("--axes", nargs="+", type=int, default=[0], help="principal axes; 0 leaves it to the method")
    parser.add_argument("--known", nargs="+", default=["50", "200", "0.1"], help="known items; 0.1 is a share of them")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--table", action="store_true", help="print Markdown of the records and stop")
    given = parser.parse_args()

    lines = given.records.read_text().splitlines() if given.records.exists() else []
    records = [json.loads(line) for line in lines]
    if given.table:
        print(table(records))
        return
    done = {tuple(record[key] for key in ("data", "split", "known", "method", "axes", "seed")) for record in records}
    for seed in given.seeds:
        for name in given.names:
            for known in given.known:
                problem = None
                for method in given.methods:
                    for axes in given.axes:
                        key = (name, given.split, known, method, axes, seed)
                        if key in done:
                            continue
                        data = true_pairs.load(name, given.data, given.cache)
                        count = float(known) if "." in known else int(known)
                        problem = problem or true_pairs.draw(data, count, seed, split=given.split)
                        started = time.perf_counter()
                        (left, right), findings = embed(problem, data, method, axes or None, seed)
                        wall_s = time.perf_counter() - started
                        record = dict(zip(("data", "split", "known", "method", "axes", "seed"), key, strict=True))
                        record |= score(left, right, problem, data) | findings | {"wall_s": wall_s}
                        record |= {"pairs": len(problem.pairs), "scored": len(problem.items)}
                        records.append(record | {"chance": chance(problem, data)})
                        with given.records.open("a") as file:
                            file.write(json.dumps(records[-1]) + "\n")
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(machine | {"records": len(records)}))


if __name__ == "__main__":
    main()
