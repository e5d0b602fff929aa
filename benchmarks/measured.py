"""Real data to measure on: two modalities that were never collected together, with labels to draw pairs and to score.

    rs        RSSCN7 images (Zou et al. 2015) and the RSICD captions (Lu et al. 2018) of the classes that answer them
    protein   UniProtKB sequences and the names of *other* entries; labels are families read off the names

The data lie beside the checkout (``--data``) and are not part of the project. Features are cached under ``--cache``.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.evaluation import metrics, relevance, zero_shot

RSICD_CLASSES = {
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
HELD_OUT = 0.2  # of the sources, by hash of their names: the same test split for every seed


@dataclass(frozen=True)
class Table:
    """Features of one modality; ``sources`` says which rows come from one place and must not be split."""

    features: Tensor
    labels: np.ndarray
    sources: np.ndarray

    def rows(self, chosen: np.ndarray) -> Table:
        return Table(self.features[torch.from_numpy(chosen)], self.labels[chosen], self.sources[chosen])


@dataclass(frozen=True)
class Draw:
    """One seed's problem: two unlabelled pools, the rows of the known pairs, and what to score on."""

    left: Table
    right: Table
    pairs: Tensor
    left_scored: Table
    right_scored: Table


def load(name: str, data: Path, cache: Path) -> tuple[Table, Table]:
    """Both modalities of a data set, from the cache when it has them."""
    cached = cache / f"{name}.pt"
    if not cached.exists():
        cache.mkdir(parents=True, exist_ok=True)
        tables = SOURCES[name](data)
        torch.save(
            [{"features": t.features, "labels": t.labels.tolist(), "sources": t.sources.tolist()} for t in tables],
            cached,
        )
    left, right = (
        Table(stored["features"], np.array(stored["labels"]), np.array(stored["sources"]))
        for stored in torch.load(cached, weights_only=True)
    )
    return left, right


def draw(
    left: Table, right: Table, pairs: int, seed: int, *, counts: str = "equal", cover: bool = True, split: str = "test"
) -> Draw:
    """One seed's problem.

    Args:
        pairs: Known pairs, random items of one class.
        counts: Of the right pool's classes: ``equal`` (an oracle: it reads labels) or ``natural``.
        cover: As many pairs of each class; otherwise each pair's class is drawn at random, and some stay without one.
        split: ``test`` trains on all but the held-out sources and scores those; ``validation`` never touches them and
            scores a fifth of the rest, drawn anew for each seed.
    """
    random = np.random.default_rng([seed, 7])
    left_pool, left_scored = _split(left, seed, split)
    right_pool, right_scored = _split(right, seed, split)
    classes = sorted(set(left_pool.labels))
    if counts == "equal":
        smallest = min(850, *(int((right_pool.labels == name).sum()) for name in classes))
        chosen = [random.choice(np.flatnonzero(right_pool.labels == name), smallest, replace=False) for name in classes]
        right_pool = right_pool.rows(np.sort(np.concatenate(chosen)))
    names = [classes[i % len(classes)] for i in range(pairs)] if cover else list(random.choice(classes, pairs))
    rows = np.zeros((pairs, 2), np.int64)
    for name in classes:
        at = [i for i, other in enumerate(names) if other == name]
        for column, pool in enumerate((left_pool, right_pool)):
            candidates = np.flatnonzero(pool.labels == name)
            rows[at, column] = random.choice(candidates, len(at), replace=len(at) > len(candidates))
    return Draw(left_pool, right_pool, torch.from_numpy(rows), left_scored, right_scored)


def score(left: Tensor, right: Tensor, problem: Draw) -> dict[str, float]:
    """Zero-shot accuracy by class means of the right side, and retrieval from left to right, in percent."""
    queries, gallery = left.numpy(), right.numpy()
    classes = sorted(set(problem.left_scored.labels))
    prototypes = zero_shot.class_means(gallery, list(problem.right_scored.labels), classes)
    classified = zero_shot.classify(queries, list(problem.left_scored.labels), prototypes, classes)
    found = metrics.retrieve(
        queries, gallery, relevance.by_key(list(problem.left_scored.labels), list(problem.right_scored.labels))
    )
    return {
        "zero_shot": 100 * float(classified.values["top1"].mean()),
        "map": 100 * float(found.values["map"].mean()),
        "precision_at_1": 100 * float(found.values["precision_at_1"].mean()),
    }


def _split(table: Table, seed: int, split: str) -> tuple[Table, Table]:
    held_out = np.array([_unit_hash(source) < HELD_OUT for source in table.sources])
    if split == "test":
        return table.rows(np.flatnonzero(~held_out)), table.rows(np.flatnonzero(held_out))
    rest = table.rows(np.flatnonzero(~held_out))
    scored = np.array([_unit_hash(f"{seed}:{source}") < HELD_OUT for source in rest.sources])
    return rest.rows(np.flatnonzero(~scored)), rest.rows(np.flatnonzero(scored))


def _unit_hash(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _remote_sensing(data: Path) -> tuple[Table, Table]:
    folder = data / "rsscn7"
    with (folder / "labels.csv").open() as file:
        entries = list(csv.DictReader(file))
    image = load_backbone("timm:tf_efficientnet_lite0", modality="image")
    images = image.encode([(folder / "images" / entry["filename"]).read_bytes() for entry in entries]).features
    names = np.array([entry["filename"] for entry in entries])
    left = Table(images, np.array([entry["class"] for entry in entries]), names)

    document = json.loads((data / "rsicd_captions" / "dataset_rsicd.json").read_text())
    rows = [
        (sentence["raw"], RSICD_CLASSES[scene], entry["filename"])
        for entry in document["images"]
        if (scene := entry["filename"].rpartition("_")[0]) in RSICD_CLASSES
        for sentence in entry["sentences"]
    ]
    text = load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption")
    distinct = sorted({row[0] for row in rows})
    places = {caption: place for place, caption in enumerate(distinct)}
    encoded = text.encode(distinct).features
    captions = encoded[torch.tensor([places[row[0]] for row in rows])]
    return left, Table(captions, np.array([row[1] for row in rows]), np.array([row[2] for row in rows]))


SOURCES = {"rs": _remote_sensing}
