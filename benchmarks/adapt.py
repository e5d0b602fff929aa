"""Towers that are aligned on photographs are adapted to images from above: with few known items there, or none.

    OMP_NUM_THREADS=1 python benchmarks/adapt.py --data ../shared/data --records adapt.jsonl
    python benchmarks/adapt.py --records adapt.jsonl --table       # Markdown of what was measured

The start is trained on all pairs of Flickr8k, by the contrastive loss alone, as a CLIP is. On RSICD it is scored as it
is, adapted in several ways, and compared with towers that know RSICD alone. Data, pools and scores are those of
``pairs.py``: every image that is not known has one caption in the pool, and nothing says which. Settings were chosen
with ``--split validation``. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pairs
import torch
import true_pairs
from scipy.stats import t as student

from setclip_cli.encoders import Encoder
from setclip_cli.encoders.graph import kept_graphs
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.build import build_training
from setclip_cli.training.fit import finish, fit_method, is_trained
from setclip_cli.training.tower import InitialWeights, Pool

SOURCE, TARGET = "flickr8k", "rsicd"
ALL_ITEMS = 10**9
LIKE_CLIP = ("method=clip", "projection.pca=256")
JOINT = ("towers.image.joint=true", "towers.caption.joint=true", "init_from=the start")
START, SCRATCH = "no adaptation", "from scratch"
# Settings of each way. What does not start with "from scratch" starts from the towers that are aligned already.
WAYS: dict[str, tuple[str, ...]] = {
    START: (),
    "adapted": (),
    "adapted by transport": ("method=transport",),
    "adapted, no density": ("objective.sdd.weight=0",),
    "adapted, no neighbourhood": ("objective.neighbourhood.weight=0",),
    "adapted, MMD": ("objective.mk_mmd.weight=1",),
    "adapted, MMD in place of the density": ("objective.mk_mmd.weight=1", "objective.sdd.weight=0"),
    "adapted, self-supervision": ("objective.self_supervised.weight=0.3",),
    "adapted, diffusion": ("extra_encoders.diffused=0.7",),
    SCRATCH: (),
    f"{SCRATCH}, transport": ("method=transport",),
}
Encoders = tuple[Encoder, Encoder]
MEASURES = {"mean_recall": "mean recall", "map": "mAP"}


def aligned_start(source: true_pairs.Items, seed: int) -> Encoders:
    """Encoders that are trained as a CLIP is, on all pairs of the training items of another data set."""
    known = true_pairs.draw(source, ALL_ITEMS, seed)
    recipe = load_recipe(pairs.RECIPE, [f"seed={seed}", *LIKE_CLIP])
    return fit_method(recipe, known.left, known.right, known.pairs).encoders


@kept_graphs()
def fitted(
    way: str, settings: tuple[str, ...], problem: true_pairs.Problem, start: Encoders, known: int, seed: int
) -> Encoders:
    """The encoders that a way makes of the start and of the problem."""
    common = [f"seed={seed}", f"pairs={known}"]
    if way == START:
        return start
    if way.startswith(SCRATCH):
        recipe = load_recipe(pairs.RECIPE, [*common, *settings])
        return fit_method(recipe, problem.left, problem.right, problem.pairs).encoders
    recipe = load_recipe(pairs.RECIPE, [*common, *JOINT, *settings])
    initial = InitialWeights(start[0], {}), InitialWeights(start[1], {})
    if not is_trained(recipe, problem.pairs):
        return fit_method(recipe, problem.left, problem.right, problem.pairs, initial=initial).encoders
    training = build_training(recipe, Pool(problem.left), Pool(problem.right), problem.pairs, initial=initial)
    while training.taken < training.steps:
        training.advance()
    return finish(recipe, training, problem.pairs).encoders


def scored(encoders: Encoders, problem: true_pairs.Problem, target: true_pairs.Items) -> dict[str, float]:
    """The scores of ``pairs.py``."""
    with torch.no_grad():
        left = encoders[0](target.features[torch.from_numpy(problem.items)])
        right = encoders[1](target.texts[torch.from_numpy(problem.texts)])
    return pairs.score(left, right, problem, target)


def table(records: list[dict[str, Any]]) -> list[str]:
    """A line for each way and number of known items; leads are means over seeds with 95% intervals (Student)."""
    found: dict[tuple[int, str], dict[int, dict[str, float]]] = defaultdict(dict)
    for record in records:
        found[record["known"], record["way"]][record["seed"]] = record
    names = " | ".join(f"{name} | its lead over {START}" for name in MEASURES.values())
    lines = [f"| known items | towers | {names} | seeds |", "| --- " * (3 + 2 * len(MEASURES)) + "|"]
    for (known, way), seeds in sorted(found.items(), key=lambda item: item[0][0]):
        cells = []
        for key in MEASURES:
            values = [each[key] for each in seeds.values()]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells += [f"{statistics.mean(values):.1f}{spread}", _lead(seeds, found[known, START], key)]
        lines.append(f"| {known} | {way} | {' | '.join(cells)} | {len(seeds)} |")
    return lines


def _lead(seeds: Mapping[int, Mapping[str, float]], start: Mapping[int, Mapping[str, float]], key: str) -> str:
    """Mean difference over the seeds that both have, with half the width of its interval; nothing for the start."""
    leads = [seeds[seed][key] - start[seed][key] for seed in seeds if seed in start]
    if seeds is start or len(leads) < 2:
        return ""
    half = student.ppf(0.975, len(leads) - 1) * statistics.stdev(leads) / len(leads) ** 0.5
    return f"{statistics.mean(leads):+.1f} ± {half:.1f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--records", type=Path, default=Path("adapt.jsonl"))
    parser.add_argument("--known", type=int, nargs="+", default=[0, 20, 50], help="known items of the target")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of all adapted ways")
    parser.add_argument("--table", action="store_true", help="print Markdown of the records and stop")
    given = parser.parse_args(arguments)
    lines = given.records.read_text().splitlines() if given.records.exists() else []
    records = [json.loads(line) for line in lines]
    if given.table:
        print("\n".join(table(records)))
        return
    key_of = ("split", "way", "known", "seed", "set")
    done = {tuple(str(record[key]) for key in key_of) for record in records}
    source, target = (true_pairs.load(name, given.data, given.cache) for name in (SOURCE, TARGET))
    for seed in given.seeds:
        start = None
        for known in given.known:
            problem = true_pairs.draw(target, known, seed, split=given.split)
            for way in given.ways:
                record = dict(zip(key_of, (given.split, way, known, seed, given.set), strict=True))
                if way == f"{SCRATCH}, transport" and not known:
                    continue
                if tuple(map(str, record.values())) in done:
                    continue
                start = start or aligned_start(source, seed)
                started = time.perf_counter()
                adapted = () if way.startswith(SCRATCH) else tuple(given.set)
                encoders = fitted(way, (*WAYS[way], *adapted), problem, start, known, seed)
                record |= {"wall_s": time.perf_counter() - started} | scored(encoders, problem, target)
                records.append(record | {"chance": pairs.chance(problem, target)})
                with given.records.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(machine | {"records": len(records)}))


if __name__ == "__main__":
    main()
