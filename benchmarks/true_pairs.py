"""Real data with true pairs to measure on: each item of the left side and the texts that were written for it.

    rsicd       AID images (Xia et al. 2017) with the five captions of RSICD (Lu et al. 2018); 30 scene classes
    flickr8k    photographs with five captions (Hodosh et al. 2013)
    yeast       proteins of S. cerevisiae by their UniRep features (Alley et al. 2019), and what SGD says of each
    swissprot   Swiss-Prot proteins by the words of three residues in them, and their GO terms as sentences

The data lie beside the checkout (``--data``) and are not part of the project. Features are cached under ``--cache``.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measured
import numpy as np
import torch
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.ingest.protein_clusters import minhash_clusters

HELD_OUT = 0.2  # of the items that are no test items, drawn anew for each seed: the validation split
TEST = 0.25  # of the proteins' clusters, by hash
SHORTEST = 3  # residues: a word


@dataclass(frozen=True)
class Items:
    """A data set.

    Attributes:
        features: (n, p) of the left items.
        texts: (t, q) features of the texts.
        item_of: (t,) the item that each text was written for.
        wording: (t,) int: equal for equal texts.
        blocks: (n,) items of one block are never split: an image alone, a cluster of proteins.
        labels: (n,) class of each item, "" if there is none.
        test: (n,) bool.
    """

    features: Tensor
    texts: Tensor
    item_of: np.ndarray
    wording: np.ndarray
    blocks: np.ndarray
    labels: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Problem:
    """One seed's problem.

    Attributes:
        left: (n, p) the pool of items.
        right: (m, q) the pool of texts: all texts of the known items and one of each other, in an order of its own.
        pairs: (b, 2) rows of the two pools, all texts of each known item.
        items: Rows of the data set that are scored.
        texts: The texts of these items, all of them, as rows of the data set.
        pool: (n,) the row of the data set of each row of ``left``.
        pool_texts: (m,) that of each row of ``right``. Together they say which rows of the pools belong together.
    """

    left: Tensor
    right: Tensor
    pairs: Tensor
    items: np.ndarray
    texts: np.ndarray
    pool: np.ndarray
    pool_texts: np.ndarray


@functools.cache
def load(name: str, data: Path, cache: Path) -> Items:
    """A data set, from the cache when it has it."""
    cached = cache / f"true-{name}.pt"
    if not cached.exists():
        cache.mkdir(parents=True, exist_ok=True)
        found = SOURCES[name](data)
        torch.save({key: v if isinstance(v, Tensor) else v.tolist() for key, v in vars(found).items()}, cached)
    stored = torch.load(cached, weights_only=True)
    fields: dict[str, Any] = {key: v if isinstance(v, Tensor) else np.array(v) for key, v in stored.items()}
    return Items(**fields)


def draw(data: Items, known: int | float | np.ndarray, seed: int, *, split: str = "test") -> Problem:
    """One seed's problem.

    Args:
        known: Items whose texts are known to be theirs: a number, or a share of the training items (a float), of the
            first rows of the pool; or the rows themselves. The pools are the same for all rows that are known.
        split: ``test`` trains on all items that are no test items and scores those; ``validation`` never touches them
            and scores a fifth of the rest, drawn anew for each seed.
    """
    random = np.random.default_rng([seed, 11])
    rest = np.flatnonzero(~data.test)
    if split == "test":
        items = np.flatnonzero(data.test)
    else:
        held_out = np.array([measured.unit_hash(f"{seed}:{block}") < HELD_OUT for block in data.blocks[rest]])
        items, rest = rest[held_out], rest[~held_out]
    pool = random.permutation(rest)
    texts_of = texts_of_items(data)
    if isinstance(known, np.ndarray):
        rows, chosen = known, [random.choice(texts_of[item], 1) for item in pool]
        for row in rows:
            chosen[row] = texts_of[pool[row]]
    else:
        count = round(known * len(pool)) if isinstance(known, float) else min(known, len(pool))
        rows = np.arange(count)
        chosen = [
            texts_of[item] if place < count else random.choice(texts_of[item], 1) for place, item in enumerate(pool)
        ]
    texts = np.concatenate(chosen)
    order = random.permutation(len(texts))
    place_of = np.empty(len(texts), np.int64)
    place_of[order] = np.arange(len(texts))
    first = np.cumsum([0, *map(len, chosen)])
    known_places = [np.arange(first[row], first[row + 1]) for row in rows]
    left_rows = np.repeat(rows, [len(places) for places in known_places])
    right_rows = place_of[np.concatenate([*known_places, np.zeros(0, np.int64)])]
    pairs = np.stack([left_rows, right_rows], axis=1).reshape(-1, 2)
    scored = np.concatenate([texts_of[item] for item in items])
    return Problem(
        data.features[torch.from_numpy(pool)],
        data.texts[torch.from_numpy(texts[order])],
        torch.from_numpy(pairs),
        items,
        scored,
        pool,
        texts[order],
    )


def texts_of_items(data: Items) -> list[np.ndarray]:
    order = np.argsort(data.item_of, kind="stable")
    return np.split(order, np.cumsum(np.bincount(data.item_of, minlength=len(data.features)))[:-1])


def _read(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file]


def _numbers(values: Sequence[str]) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1]


def _encoded_texts(texts: Sequence[str]) -> Tensor:
    """Features of MiniLM; each distinct text is read once."""
    distinct = sorted(set(texts))
    places = {text: place for place, text in enumerate(distinct)}
    backbone = load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption")
    return backbone.encode(distinct).features[torch.tensor([places[text] for text in texts])]


def _images(folder: Path) -> Items:
    rows = _read(folder / "captions.jsonl")
    names = sorted({row["group"] for row in rows})
    first = {row["group"]: row for row in rows}
    number = {name: place for place, name in enumerate(names)}
    backbone = load_backbone("timm:tf_efficientnet_lite0", modality="image")
    features = backbone.encode([(folder / "images" / name).read_bytes() for name in names]).features
    return Items(
        features,
        _encoded_texts([row["text"] for row in rows]),
        np.array([number[row["group"]] for row in rows]),
        _numbers([row["text"] for row in rows]),
        np.array(names),
        np.array([first[name].get("label", "") for name in names]),
        np.array([first[name]["split"] == "test" for name in names]),
    )


def _proteins(rows: list[dict[str, str]], sequences: dict[str, str], features: dict[str, np.ndarray]) -> Items:
    ids = sorted({row["group"] for row in rows} & features.keys())
    number = {name: place for place, name in enumerate(ids)}
    rows = [row for row in rows if row["group"] in number]
    cluster = minhash_clusters((name, sequences[name]) for name in ids)
    blocks = [cluster[name] for name in ids]
    return Items(
        torch.from_numpy(np.stack([features[name] for name in ids])),
        _encoded_texts([row["text"] for row in rows]),
        np.array([number[row["group"]] for row in rows]),
        _numbers([row["text"] for row in rows]),
        np.array(blocks),
        np.array([""] * len(ids)),
        np.array([measured.unit_hash(f"test:{block}") < TEST for block in blocks]),
    )


def _sequences(path: Path) -> dict[str, str]:
    with gzip.open(path, "rt") as file:
        entries = [entry.partition("\n") for entry in file.read().split(">")[1:]]
    return {header.split()[0]: residues.replace("\n", "") for header, _, residues in entries}


def _yeast(data: Path) -> Items:
    folder = data / "yeast"
    ids = (folder / "unirep256.ids").read_text().split()
    vectors = np.load(folder / "unirep256.npy").astype(np.float32)
    features = dict(zip(ids, vectors, strict=True))
    return _proteins(_read(folder / "captions.jsonl"), _sequences(folder / "proteins.fasta.gz"), features)


def _swissprot(data: Path) -> Items:
    folder = data / "swissprot_go"
    sequences = _sequences(folder / "proteins.fasta.gz")
    words = {name: measured.word_frequencies(text) for name, text in sequences.items() if len(text) >= SHORTEST}
    return _proteins(_read(folder / "captions.jsonl.gz"), sequences, words)


SOURCES = {
    "rsicd": lambda data: _images(data / "rsicd_pairs"),
    "flickr8k": lambda data: _images(data / "flickr8k_pairs"),
    "yeast": _yeast,
    "swissprot": _swissprot,
}
