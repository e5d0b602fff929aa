"""What landmarks cost in quality, on two data sets with true pairs. Prints one JSON line, and each run on stderr.

    OMP_NUM_THREADS=1 python benchmarks/landmarks.py

A pool of a few thousand rows is aligned in three ways: with all rows as landmarks (so it is no large pool), with
``--landmarks`` of them, and with so many rows alone, as if there were no others. The known pairs are the same. The
steps are those of a user: `ingest` of .npy files and `setclip align`. The scores are those of ``pairs.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from statistics import mean

import numpy as np
import pairs
import torch
import true_pairs

import setclip_cli as setclip
from setclip_cli.ingest.ingest import ingest
from setclip_cli.training.landmarks import draw_landmarks

ALL = 1_000_000  # landmarks: more than any of these pools has rows
SIDES = ("left", "right")


def align(problem: true_pairs.Problem, method: str, landmarks: int, seed: int, folder: Path) -> setclip.Model:
    """The RUN that a user gets from the pools of a problem."""
    data = folder / "data"
    for name, rows in zip(SIDES, (problem.left, problem.right), strict=True):
        np.save(folder / f"{name}.npy", rows.numpy())
        (folder / f"{name}.ids").write_text("".join(f"{name}-{row}\n" for row in range(len(rows))))
        own = setclip.IngestOptions(
            modality=name, kind="vector", ids=str(folder / f"{name}.ids"), keep_duplicates=True, split="train"
        )
        ingest(folder / f"{name}.npy", data, own)
    known = "".join(f"left-{left},right-{right}\n" for left, right in problem.pairs.tolist())
    (folder / "pairs.csv").write_text("left,right\n" + known)
    ingest([], data, setclip.IngestOptions(pairs=str(folder / "pairs.csv")))
    items = len(set(problem.pairs[:, 0].tolist()))
    changed = [f'method="{method}"', f"pairs={items}", f"train.landmarks={landmarks}", f"seed={seed}"]
    setclip.align(setclip.load_recipe("vectors", changed), data, folder / "run")
    return setclip.load_model(folder / "run")


def cut(problem: true_pairs.Problem, landmarks: int, seed: int) -> true_pairs.Problem:
    """The problem with the rows alone that would be landmarks."""
    rows = [
        draw_landmarks(len(side), known, landmarks=landmarks, seed=seed, side=name)
        for name, side, known in zip(SIDES, (problem.left, problem.right), problem.pairs.T, strict=True)
    ]
    pairs_of_cut = torch.stack(
        [torch.searchsorted(kept, known) for kept, known in zip(rows, problem.pairs.T.contiguous(), strict=True)], 1
    )
    return true_pairs.Problem(
        problem.left[rows[0]],
        problem.right[rows[1]],
        pairs_of_cut,
        problem.items,
        problem.texts,
        problem.pool[rows[0].numpy()],
        problem.pool_texts[rows[1].numpy()],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "setclip-pairs")
    parser.add_argument("--names", nargs="+", choices=sorted(true_pairs.SOURCES), default=["rsicd", "flickr8k"])
    parser.add_argument("--methods", nargs="+", default=["transport", "set-clip-plus"])
    parser.add_argument("--known", type=int, default=50, help="Known items, each with all its texts.")
    parser.add_argument("--landmarks", type=int, nargs="+", default=[1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    for name, seed in product(given.names, given.seeds):
        data = true_pairs.load(name, given.data, given.cache)
        problem = true_pairs.draw(data, given.known, seed)
        ways = {"all rows": (problem, ALL)}
        for landmarks in given.landmarks:
            ways[f"{landmarks} landmarks"] = problem, landmarks
            ways[f"{landmarks} rows alone"] = cut(problem, landmarks, seed), ALL
        for (way, (pools, landmarks)), method in product(ways.items(), given.methods):
            with tempfile.TemporaryDirectory(prefix="setclip-landmarks-") as made:
                os.environ["SETCLIP_CACHE"] = str(Path(made) / "cache")
                started = time.process_time()
                model = align(pools, method, landmarks, seed, Path(made))
                seconds = time.process_time() - started
                left = torch.from_numpy(model.embed(left=data.features[torch.from_numpy(problem.items)].numpy()))
                right = torch.from_numpy(model.embed(right=data.texts[torch.from_numpy(problem.texts)].numpy()))
            score = pairs.score(left, right, problem, data, recall_alone=True)["mean_recall"]
            found[f"{name}, {method}, {way}"].append(round(score, 2))
            told = {"data": name, "seed": seed, "method": method, "way": way, "mean_recall": round(score, 2)}
            rows = [len(pools.left), len(pools.right)]
            print(json.dumps(told | {"rows": rows, "processor_s": round(seconds, 1)}), file=sys.stderr, flush=True)
    print(json.dumps({where: {"mean": round(mean(scores), 2), "scores": scores} for where, scores in found.items()}))


if __name__ == "__main__":
    main()
