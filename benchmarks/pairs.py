"""How well each method finds the one partner of an item, on four data sets with true pairs. Prints one JSON line.

    export OMP_NUM_THREADS=1
    python benchmarks/pairs.py --split validation --seeds 100 101 --grid --records validation.jsonl
    python benchmarks/pairs.py --records validation.jsonl --choose > benchmarks/pairs_chosen.jsonl
    python benchmarks/pairs.py --chosen benchmarks/pairs_chosen.jsonl --records test.jsonl
    python benchmarks/pairs.py --records test.jsonl --table
    python benchmarks/pairs.py --records test.jsonl --picture docs/true-pairs.svg

``--known`` counts items, each known with all its texts; a number with a point is a share. Every other item has one text
in the pool, and nothing says which. ``mean_recall`` is the mean of recall at 1, 5 and 10 in both directions among the
items of the split and all their texts; a text that is word for word that of a right one is right too. ``by_group`` is
the same without that. ``map`` is by class, where there are classes. Where no setting was chosen for a number of known
items, that of a number near to it is taken: for 20 items that of 50, for all items that of a tenth.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pairs_found
import pairs_picture
import rivals
import torch
import true_pairs
from torch import Tensor

from setclip_cli.evaluation import metrics
from setclip_cli.evaluation.relevance import Relevance, relevance_by_key, relevance_by_pairs
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.training.fit import fit

RECIPE = Path(__file__).with_name("alignment.toml")
RECALLS = (1, 5, 10)
AXES = ({"axes": 64}, {"axes": 256}, {"axes": 384}, {"axes": 0})  # 0 keeps all
PARTNERS = {"extra_encoders.linear": 2, "extra_encoders.diffused": 0, "extra_encoders.shifted": 0}  # not kinds
# What is tried on a validation split. ``transport``, which ``auto`` takes for partners, chooses for itself.
# For trained heads 384 axes are as good as 256, and all of them worse.
GRIDS: dict[str, tuple[dict[str, Any], ...]] = {
    "transport": ({},),
    "set-clip-plus": (*AXES, {"axes": 256, **PARTNERS}),
    **dict.fromkeys(("set-clip", "clip", "asif-graph"), AXES[:2]),
    **dict.fromkeys(("cca", "asif", "procrustes", "ridge"), AXES),
    **rivals.SETTINGS,
}
# Whose setting is taken, the first that was chosen.
CHOSEN_AT = {
    "0": ("0", "50"),
    "20": ("20", "50"),
    "50": ("50", "200"),
    "200": ("200", "0.1", "50"),
    "0.1": ("0.1", "200"),
    "all": ("all", "0.1", "200"),
}


def embed(problem: true_pairs.Problem, data: true_pairs.Items, method: str, settings: dict[str, Any], seed: int) -> Any:
    """Embeddings of the scored items and texts, and what the fit found out."""
    scored = data.features[torch.from_numpy(problem.items)], data.texts[torch.from_numpy(problem.texts)]
    if method in rivals.RIVALS:
        encoders = rivals.RIVALS[method](problem.left, problem.right, problem.pairs, seed=seed, **settings)
        return [encoder(rows) for encoder, rows in zip(encoders, scored, strict=True)], {}
    fitted = fit(recipe_of(method, settings, seed=seed), problem.left, problem.right, problem.pairs)
    with torch.no_grad():
        return [encoder(rows) for encoder, rows in zip(fitted.encoders, scored, strict=True)], fitted.findings


def recipe_of(method: str, settings: dict[str, Any], *, seed: int) -> Recipe:
    """A recipe's keys are settings, and ``axes`` is short for one of them."""
    changed = [f"{'projection.pca' if key == 'axes' else key}={value}" for key, value in settings.items()]
    return load_recipe(RECIPE, [f'method="{method}"', f"seed={seed}", *changed])


def score(
    left: Tensor, right: Tensor, problem: true_pairs.Problem, data: true_pairs.Items, *, recall_alone: bool = False
) -> dict[str, float]:
    """Of unit embeddings, in percent but for ranks; ``recall_alone`` leaves out ``by_group`` and ``map``."""
    place = {item: row for row, item in enumerate(problem.items.tolist())}
    own = [place[item] for item in data.item_of[problem.texts].tolist()]
    same_words: dict[int, list[int]] = defaultdict(list)
    for column, wording in enumerate(data.wording[problem.texts].tolist()):
        same_words[wording].append(column)
    equal = {(row, other) for columns in same_words.values() for row in {own[c] for c in columns} for other in columns}
    sizes = {"queries": len(problem.items), "gallery": len(problem.texts)}

    def both(answers: tuple[Relevance, Relevance], **options: Any) -> list[dict[str, float]]:
        sides = (left.numpy(), right.numpy(), answers[0]), (right.numpy(), left.numpy(), answers[1])
        return [metrics.mean_over_queries(metrics.retrieve(*side, **options).values) for side in sides]

    def mean_recall(means: list[dict[str, float]]) -> float:
        return 100 * float(np.mean([of_side[f"recall_at_{k}"] for of_side in means for k in RECALLS]))

    means = both((relevance_by_pairs(sorted(equal), **sizes), _turned(equal, sizes)), recall_at=RECALLS)
    found = {"mean_recall": mean_recall(means), "median_rank": float(np.mean([m["median_rank"] for m in means]))}
    for direction, of_side in zip(("left_to_right", "right_to_left"), means, strict=True):
        found |= {f"{direction}/recall_at_{k}": 100 * of_side[f"recall_at_{k}"] for k in RECALLS}
    if recall_alone:
        return found
    by_group = (
        relevance_by_pairs(list(zip(own, range(len(own)), strict=True)), **sizes),
        relevance_by_key([str(row) for row in own], [str(row) for row in range(len(problem.items))]),
    )
    found["by_group"] = mean_recall(both(by_group, recall_at=RECALLS))
    labels = list(data.labels[problem.items])
    if all(labels):
        of_texts = list(data.labels[data.item_of[problem.texts]])
        by_class = relevance_by_key(labels, of_texts), relevance_by_key(of_texts, labels)
        found["map"] = 100 * float(np.mean([of_side["map"] for of_side in both(by_class)]))
    return found


def _turned(pairs: set[tuple[int, int]], sizes: dict[str, int]) -> Relevance:
    return relevance_by_pairs(
        sorted((column, row) for row, column in pairs), queries=sizes["gallery"], gallery=sizes["queries"]
    )


def chance(problem: true_pairs.Problem, data: true_pairs.Items) -> float:
    """Mean recall of embeddings that are all the same."""
    left, right = torch.ones(len(problem.items), 1), torch.ones(len(problem.texts), 1)
    return score(left, right, problem, data, recall_alone=True)["mean_recall"]


def count(known: str, data: true_pairs.Items) -> int | float:
    """Known items as ``true_pairs.draw`` takes them."""
    if known == "all":
        return len(data.features)
    return float(known) if "." in known else int(known)


def runs(given: argparse.Namespace, chosen: dict[tuple[str, str, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What is asked for, as records without results."""
    for seed, name, known, method in product(given.seeds, given.names, given.known, given.methods):
        at = [chosen[name, near, method] for near in CHOSEN_AT.get(known, ()) if (name, near, method) in chosen]
        tried = given.settings or at[:1] or [{}]
        for settings in GRIDS.get(method, ({},)) if given.grid else tried:
            place = {"data": name, "split": given.split, "known": known, "method": method}
            yield place | {"settings": settings, "seed": seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--records", type=Path, default=Path("pairs.jsonl"))
    parser.add_argument("--names", nargs="+", default=list(true_pairs.SOURCES), choices=list(true_pairs.SOURCES))
    parser.add_argument("--methods", nargs="+", default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument("--known", nargs="+", default=["50", "200", "0.1"], help="known items; 0.1 is a share; or all")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--settings", nargs="+", type=json.loads, help="""each method with each: '{"axes": 256}' '{}'""")
    which.add_argument("--grid", action="store_true", help="each method with all settings that are tried for it")
    which.add_argument("--chosen", type=Path, help="each method with its setting in this file, from --choose")
    which.add_argument("--choose", action="store_true", help="print the best settings on the validation split and stop")
    which.add_argument("--table", action="store_true", help="print Markdown of the records and stop")
    which.add_argument("--picture", type=Path, help="draw the records as an SVG and stop")
    given = parser.parse_args()

    records = pairs_found.read(given.records) if given.records.exists() else []
    if given.choose:
        print("\n".join(json.dumps(line) for line in pairs_found.choose(records)))
        return
    if given.table:
        print(pairs_found.tables(records))
        return
    if given.picture:
        given.picture.write_text(pairs_picture.picture(records), encoding="utf-8")
        return
    chosen = pairs_found.read(given.chosen) if given.chosen else []
    done = {pairs_found.key(record) for record in records}
    drawn, problem, of_chance = None, None, 0.0
    for record in runs(given, {pairs_found.place(line): line["settings"] for line in chosen}):
        if pairs_found.key(record) in done:
            continue
        data = true_pairs.load(record["data"], given.data, given.cache)
        if problem is None or drawn != (record["data"], record["known"], record["seed"]):
            drawn = record["data"], record["known"], record["seed"]
            problem = true_pairs.draw(data, count(record["known"], data), record["seed"], split=given.split)
            of_chance = chance(problem, data)
        started = time.perf_counter()
        (left, right), findings = embed(problem, data, record["method"], record["settings"], record["seed"])
        record["wall_s"] = time.perf_counter() - started
        record |= score(left, right, problem, data, recall_alone=given.split == "validation") | findings
        record |= {"items": len(set(problem.pairs[:, 0].tolist())), "pairs": len(problem.pairs)}
        record |= {"scored": len(problem.items), "chance": of_chance}
        records.append(record)
        with given.records.open("a") as file:
            file.write(json.dumps(record) + "\n")
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(machine | {"records": len(records)}))


if __name__ == "__main__":
    main()
