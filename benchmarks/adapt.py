"""Towers that are aligned on one DATASET are adapted to another: with few known items there, or none.

    setclip ingest flickr8k/images --modality image --out data/flickr8k ...    (captions with a group, both splits)
    python benchmarks/adapt.py --source data/flickr8k --target data/rsicd --out runs/adapt --known 0 20 50 --seeds 5

The start is aligned with all pairs of the source. On the target it is scored as it is, adapted in two ways, and
compared with towers that know the target alone. Mean recall: R@1, 5, 10 of both directions, by group; mAP by label.
Prints one JSON line for each RUN, then a table: mean over seeds ± standard error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.options import EvaluateOptions, RelevanceRule
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.training.align import align

TOWERS: dict[str, dict[str, Any]] = {
    "image": {"backbone": "timm:tf_efficientnet_lite0"},
    "caption": {"backbone": "sentence-transformers:all-MiniLM-L6-v2"},
}


def ways(start: Path) -> dict[str, dict[str, Any] | None]:
    """What is done on the target, as settings of a recipe; None for nothing."""
    joint = {"towers": {modality: tower | {"joint": True} for modality, tower in TOWERS.items()}}
    return {
        "no adaptation": None,
        "from the start": {**joint, "init_from": str(start)},
        "from the start, diffused": {**joint, "init_from": str(start), "extra_encoders": {"diffused": 0.7}},
        "the heads go on": {"init_from": str(start)},
        "from scratch": {},
    }


def figures(run: Path, target: Dataset, out: Path, *, labels: bool) -> dict[str, float]:
    """Mean recall by group, and mean average precision by label, in percent."""
    rules: dict[RelevanceRule, list[str]] = {"group": ["recall_at_1", "recall_at_5", "recall_at_10"]}
    if labels:
        rules["label"] = ["map"]
    found = {}
    for rule, keys in rules.items():
        report = evaluate(run, target, out / rule, EvaluateOptions(split="test", relevance=rule, baselines=()))
        both = [report.metrics[f"{way}/{key}"] for way in ("image_to_caption", "caption_to_image") for key in keys]
        found["mAP" if rule == "label" else "mean recall"] = 100 * statistics.mean(both)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("source", "target", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--known", type=int, nargs="+", default=[0, 20, 50], help="known items of the target")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", action="store_true", help="the target's test rows have labels on both sides")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `setclip align` takes it")
    given = parser.parse_args(arguments)
    source, target = open_dataset(given.source), open_dataset(given.target)
    scores: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
    for seed in range(given.seeds):
        start = given.out / f"start-{seed}"
        align(recipe({"seed": seed}, given.set), source, start)
        for known in given.known:
            for way, settings in ways(start).items():
                name = f"{way.replace(' ', '-')}-{known}-{seed}"
                run = start if settings is None else given.out / name
                if settings is not None:
                    align(recipe({"seed": seed, "pairs": known} | settings, given.set), target, run)
                found = figures(run, target, given.out / "reports" / name, labels=given.labels)
                print(json.dumps({"way": way, "known": known, "seed": seed, **found}), flush=True)
                scores[known, way].append(found)
    print("\n".join(table(scores)))


def recipe(settings: dict[str, Any], overrides: list[str]) -> Recipe:
    """The recipe of these settings, with the overrides of the command line on top."""
    made = Recipe.model_validate({"towers": TOWERS} | settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.toml")
        path.write_text(made.to_toml(), encoding="utf-8")
        return load_recipe(path, overrides)


def table(scores: dict[tuple[int, str], list[dict[str, float]]]) -> list[str]:
    """A line for each way and number of known items: mean over seeds ± standard error."""
    keys = list(next(iter(scores.values()))[0])
    lines = [f"| known items | towers | {' | '.join(keys)} |", "| --- " * (2 + len(keys)) + "|"]
    for (known, way), found in scores.items():
        cells = []
        for key in keys:
            values = [each[key] for each in found]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.1f} ± {error:.1f}")
        lines.append(f"| {known} | {way} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
