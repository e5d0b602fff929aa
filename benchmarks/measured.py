"""Real data to measure on: two modalities that were never collected together, with labels to draw pairs and to score.

    rs          RSSCN7 images (Zou et al. 2015) and the RSICD captions (Lu et al. 2018); seven classes answer each other
    quickstart  the quickstart's tiles of the Blue Marble and captions of other places; labels are its scenes
    protein     sequences of UniProtKB and the names of *other* entries; labels are families read off the names

The data lie beside the checkout (``--data``) and are not part of the project. Features are cached under ``--cache``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.evaluation import metrics, zero_shot
from setclip_cli.evaluation.relevance import relevance_by_key
from setclip_cli.quickstart import maps
from setclip_cli.quickstart.source import choose_places

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
        counts: Of the right pool's classes: ``equal`` (an oracle: it reads labels), ``natural``, or ``all``: natural,
            and beside them the rows of classes that no row on the left has. Those are never scored.
        cover: As many pairs of each class; otherwise each pair's class is drawn at random, and some stay without one.
        split: ``test`` trains on all but the held-out sources and scores those; ``validation`` never touches them and
            scores a fifth of the rest, drawn anew for each seed.
    """
    random = np.random.default_rng([seed, 7])
    left_pool, left_scored = _split(left, seed, split)
    right_pool, right_scored = _split(right, seed, split)
    classes = sorted(set(left_pool.labels))
    right_scored = right_scored.rows(np.flatnonzero(np.isin(right_scored.labels, classes)))
    if counts != "all":
        right_pool = right_pool.rows(np.flatnonzero(np.isin(right_pool.labels, classes)))
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
        queries, gallery, relevance_by_key(list(problem.left_scored.labels), list(problem.right_scored.labels))
    )
    return {
        "zero_shot": 100 * float(classified.values["top1"].mean()),
        "map": 100 * float(found.values["map"].mean()),
        "precision_at_1": 100 * float(found.values["precision_at_1"].mean()),
    }


def _split(table: Table, seed: int, split: str) -> tuple[Table, Table]:
    held_out = np.array([unit_hash(source) < HELD_OUT for source in table.sources])
    if split == "test":
        return table.rows(np.flatnonzero(~held_out)), table.rows(np.flatnonzero(held_out))
    rest = table.rows(np.flatnonzero(~held_out))
    scored = np.array([unit_hash(f"{seed}:{source}") < HELD_OUT for source in rest.sources])
    return rest.rows(np.flatnonzero(~scored)), rest.rows(np.flatnonzero(scored))


def unit_hash(text: str) -> float:
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
        (sentence["raw"], RSICD_CLASSES.get(scene, f"RSICD {scene}"), entry["filename"])
        for entry in document["images"]
        for scene in [entry["filename"].rpartition("_")[0]]
        for sentence in entry["sentences"]
    ]
    text = load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption")
    distinct = sorted({row[0] for row in rows})
    places = {caption: place for place, caption in enumerate(distinct)}
    encoded = text.encode(distinct).features
    captions = encoded[torch.tensor([places[row[0]] for row in rows])]
    return left, Table(captions, np.array([row[1] for row in rows]), np.array([row[2] for row in rows]))


def _quickstart(_: Path) -> tuple[Table, Table]:
    """Held out by map cell, as the quickstart does, so that no tile or caption has a neighbour among those scored."""
    imagery = maps.blue_marble()
    source = choose_places(maps.survey(), imagery)
    tiles = [maps.tile(imagery, one.place) for one in source.images]
    image = load_backbone("timm:tf_efficientnet_lite0", modality="image")
    text = load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption")
    features = image.encode([_png(tile) for tile in tiles]).features, text.encode([one.text for one in source.captions])
    left, right = (
        Table(values, np.array([one.label for one in rows]), np.array([str(one.place.cell) for one in rows]))
        for values, rows in ((features[0], source.images), (features[1].features, source.captions))
    )
    return left, right


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def _proteins(data: Path) -> tuple[Table, Table]:
    """Half of the entries give their sequence, the other half their name, so that no hidden pair exists."""
    sequences: list[tuple[str, str, str]] = []  # entry, family, residues
    names: list[tuple[str, str, str]] = []  # entry, family, name
    with gzip.open(data / "uniprot" / "uniprot_sample.fasta.gz", "rt") as file:
        for entry in file.read().split(">")[1:]:
            header, _, residues = entry.partition("\n")
            identifier, _, rest = header.partition(" ")
            name = rest.partition(" OS=")[0]
            family = next((key for key, part in FAMILIES.items() if re.search(part, name)), None)
            if family is None:
                continue
            if unit_hash(f"half:{identifier}") < 0.5:
                sequences.append((identifier, family, residues.replace("\n", "")))
            else:
                names.append((identifier, family, name))
    text = load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption")
    features = (
        torch.from_numpy(np.stack([word_frequencies(row[2]) for row in sequences])),
        text.encode([row[2] for row in names]).features,
    )
    left, right = (
        Table(values, np.array([row[1] for row in rows]), np.array([row[0] for row in rows]))
        for values, rows in zip(features, (sequences, names), strict=True)
    )
    return left, right


def word_frequencies(residues: str) -> np.ndarray:
    """(1000,) float32: square roots of how often each word of three letters occurs, residues in ten groups.

    The groups are those of Murphy, Wallqvist and Levy (2000); letters outside them end a word.
    """
    group = np.array([GROUP_OF.get(letter, -1) for letter in residues])
    words = group[:-2] * 100 + group[1:-1] * 10 + group[2:]
    known = (group[:-2] >= 0) & (group[1:-1] >= 0) & (group[2:] >= 0)
    counts = np.bincount(words[known], minlength=1000).astype(np.float32)
    frequencies: np.ndarray = np.sqrt(counts / max(1.0, counts.sum()))
    return frequencies


FAMILIES = {
    "aminoacyl-tRNA ligase": r"--tRNA ligase|tRNA synthetase",
    "ribosomal protein": r"ribosomal protein",
    "RNA polymerase": r"RNA polymerase",
    "methyltransferase": r"methyltransferase",
    "ATP-binding transporter": r"ATP-binding protein|ABC transporter",
    "kinase": r"[Kk]inase",
    "dehydrogenase": r"dehydrogenase",
    "oxidoreductase": r"oxidoreductase|reductase",
    "ATP synthase": r"ATP synthase",
    "chaperone": r"[Cc]haperon|GrpE|[Hh]eat shock",
    "translation factor": r"([Ee]longation|[Ii]nitiation|release) factor",
    "peptidase": r"[Pp]rotease|[Pp]eptidase",
}  # the first that a name matches; entries that match none are left out
GROUPS = ("LVIM", "C", "A", "G", "ST", "P", "FYW", "EDNQ", "KR", "H")
GROUP_OF = {letter: number for number, letters in enumerate(GROUPS) for letter in letters}
SOURCES = {"rs": _remote_sensing, "quickstart": _quickstart, "protein": _proteins}
