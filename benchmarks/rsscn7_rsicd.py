"""RSSCN7 images against RSICD captions, through ingest, align and evaluate: what 3 known pairs a class are worth.

    python benchmarks/rsscn7_rsicd.py --data DIR --work DIR [--methods set-clip-plus clip] [--seeds 3]

DIR holds ``rsscn7/`` (images/ and labels.csv: Zou et al. 2015) and ``rsicd_captions/dataset_rsicd.json`` (Lu et al.
2018), neither of them part of the project. The two were never collected together; seven of RSICD's scenes answer those
of RSSCN7. Labels draw the pairs and score the test split, and nothing else. Captions are split by the image they
describe. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.options import EvaluateOptions
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.align import align

RECIPE = Path(__file__).with_name("alignment.toml")
SPLIT = "train=0.8,test=0.2"
PAIRS_PER_CLASS = 3
KEYS = ("image_to_caption/map", "caption_to_image/map", "image_to_caption/recall_at_1", "zero_shot/top1")
ANSWERS = {  # scene of RSICD -> the class of RSSCN7 that it answers
    "meadow": "grass",
    "farmland": "field",
    "industrial": "industry",
    "river": "river_lake",
    "pond": "river_lake",
    "forest": "forest",
    "denseresidential": "resident",
    "mediumresidential": "resident",
    "parking": "parking",
}


def prepare(data: Path, work: Path, *, seed: int) -> Dataset:
    """Ingests both sources and 3 pairs a class, drawn with ``seed``, into ``work``/dataset-<seed>."""
    captions, caption_labels = _answering_captions(data / "rsicd_captions" / "dataset_rsicd.json", work)
    out = work / f"dataset-{seed}"
    images = data / "rsscn7"
    ingest(images / "images", out, IngestOptions(modality="image", labels=images / "labels.csv", split=SPLIT))
    options = IngestOptions(modality="caption", labels=caption_labels, split=SPLIT)
    ingest(captions, out, options)
    pairs = work / f"pairs-{seed}.csv"
    _write_csv(pairs, ("left_modality", "left_id", "right_modality", "right_id"), _draw_pairs(open_dataset(out), seed))
    ingest(captions, out, replace(options, pairs=pairs))
    return open_dataset(out)


def compare(data: Path, work: Path, methods: list[str], *, seeds: int) -> dict[str, dict[str, float]]:
    """Trains every method on every seed's pairs and returns the means of the test metrics by method."""
    reports: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    base = load_recipe(RECIPE)
    for seed in range(seeds):
        dataset = prepare(data, work, seed=seed)
        runs = []
        for method in methods:
            recipe = base.with_settings(method=method, seed=seed)
            runs.append(align(recipe, dataset, work / "runs" / f"{method}-{seed}").run)
        report = evaluate(runs, dataset, work / f"report-{seed}", EvaluateOptions(relevance="label", baselines=()))
        for method, target in zip(methods, report.content["targets"], strict=True):
            reports[method].append({key: metric["value"] for key, metric in target["metrics"].items()})
    return {
        method: {key: sum(found[key] for found in of_method) / seeds for key in KEYS}
        for method, of_method in reports.items()
    }


def _answering_captions(source: Path, work: Path) -> tuple[Path, Path]:
    """The part of the published file whose scenes answer a class, in its own layout, and the labels of its images."""
    published = json.loads(source.read_text(encoding="utf-8"))
    answering = [image for image in published["images"] if image["filename"].rsplit("_", 1)[0] in ANSWERS]
    captions, labels = work / "dataset_rsicd.json", work / "caption-labels.csv"
    if not labels.exists():
        work.mkdir(parents=True, exist_ok=True)
        captions.write_text(json.dumps({**published, "images": answering}), encoding="utf-8")
        _write_csv(
            labels,
            ("id", "label"),
            [(one["filename"], ANSWERS[one["filename"].rsplit("_", 1)[0]]) for one in answering],
        )
    return captions, labels


def _draw_pairs(dataset: Dataset, seed: int) -> list[tuple[str, str, str, str]]:
    """As many random images and captions of one class as there are pairs of it, from the train split."""
    draw = random.Random(seed)
    ids: dict[str, dict[str, list[str]]] = {"image": {}, "caption": {}}
    for modality in ("image", "caption"):
        rows = dataset.table(modality, "train", ["id", "label"])
        for identifier, label in zip(rows["id"].to_pylist(), rows["label"].to_pylist(), strict=True):
            ids[modality].setdefault(label, []).append(identifier)
    return [
        ("image", left, "caption", right)
        for label in sorted(ids["image"])
        for left, right in zip(
            draw.sample(sorted(ids["image"][label]), PAIRS_PER_CLASS),
            draw.sample(sorted(ids["caption"][label]), PAIRS_PER_CLASS),
            strict=True,
        )
    ]


def _write_csv(path: Path, header: tuple[str, ...], rows: list[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with rsscn7/ and rsicd_captions/")
    parser.add_argument("--work", type=Path, required=True, help="where datasets, runs and reports go")
    parser.add_argument("--methods", nargs="+", default=["set-clip-plus", "set-clip", "clip"])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    started = time.monotonic()
    found = compare(args.data, args.work, args.methods, seeds=args.seeds)
    print(json.dumps({"benchmark": "rsscn7_rsicd", "seconds": round(time.monotonic() - started), "methods": found}))


if __name__ == "__main__":
    main()
