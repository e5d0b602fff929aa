"""What a protein language model adds to the words in a sequence: yeast proteins against what SGD says of them.

    export OMP_NUM_THREADS=1
    python benchmarks/proteins.py --split validation --seeds 100 101 --records validation.jsonl
    python benchmarks/proteins.py --chosen validation.jsonl --records test.jsonl
    python benchmarks/proteins.py --records test.jsonl --table

The same proteins are seen in two ways: as UniRep vectors, and as the frequencies of words of three residues, where
residues are of ten groups (`measured.word_frequencies`). The problem and the scores are those of `pairs.py`. On the
validation split `ridge` is tried with several numbers of axes; ``--chosen`` takes the best of them for the test split.
`transport` chooses for itself. Finished records are not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import measured
import numpy as np
import pairs
import torch
import true_pairs

SEEN = ("unirep", "words")
METHODS = ("ridge", "transport")


def load(data: Path, cache: Path) -> dict[str, true_pairs.Items]:
    """The same proteins with each of their features."""
    items = true_pairs.load("yeast", data, cache)
    folder = data / "yeast"
    sequences = true_pairs._sequences(folder / "proteins.fasta.gz")
    described = {row["group"] for row in true_pairs._read(folder / "captions.jsonl")}
    ids = sorted(described & set((folder / "unirep256.ids").read_text().split()))
    assert len(ids) == len(items.features)
    words = np.stack([measured.word_frequencies(sequences[name]) for name in ids])
    return {"unirep": items, "words": replace(items, features=torch.from_numpy(words))}


def tried(seen: str, known: str, method: str, chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings to run: all of the grid, or the best of the records on the validation split."""
    if method != "ridge":
        return [{}]
    if not chosen:
        return list(pairs.AXES)
    scores: dict[str, list[float]] = defaultdict(list)
    for record in chosen:
        if (record["seen"], record["known"], record["method"]) == (seen, known, method):
            scores[json.dumps(record["settings"])].append(record["mean_recall"])
    return [dict(json.loads(max(scores, key=lambda settings: float(np.mean(scores[settings])))))]


def table(records: list[dict[str, Any]]) -> str:
    """Mean recall on the test split, a line for each number of known proteins."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for record in records:
        found[record["known"], record["seen"], record["method"]].append(record["mean_recall"])
    columns = [("chance", ""), *product(SEEN, METHODS)]
    lines = ["| known proteins | chance | " + " | ".join(f"{seen}, {method}" for seen, method in columns[1:]) + " |"]
    lines.append("| --- " * (len(columns) + 1) + "|")
    for known in dict.fromkeys(record["known"] for record in records):
        cells = [found.get((known, *column), []) for column in columns]
        told = [
            f"{np.mean(cell):.1f} ± {np.std(cell, ddof=len(cell) > 1):.1f} ({len(cell)})" if cell else ""
            for cell in cells[1:]
        ]
        lines.append(f"| {known} | {np.mean(cells[0]):.1f} | {' | '.join(told)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--chosen", type=Path, help="records of the validation split")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--known", nargs="+", default=["50", "200", "all"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--table", action="store_true", help="print Markdown of the records and stop")
    given = parser.parse_args()
    lines = given.records.read_text().splitlines() if given.records.exists() else []
    records = [dict(json.loads(line)) for line in lines]
    if given.table:
        print(table(records))
        return
    chosen = [dict(json.loads(line)) for line in given.chosen.read_text().splitlines()] if given.chosen else []
    done = {json.dumps([record[key] for key in ("seen", "method", "known", "seed", "settings")]) for record in records}
    data = load(given.data, given.cache)
    for known, method, seen, seed in product(given.known, given.methods, SEEN, given.seeds):
        items = data[seen]
        for settings in tried(seen, known, method, chosen):
            if json.dumps([seen, method, known, seed, settings]) in done:
                continue
            started = time.monotonic()
            problem = true_pairs.draw(items, pairs.count(known, items), seed, split=given.split)
            (left, right), _ = pairs.embed(problem, items, method, settings, seed)
            scores = pairs.score(left, right, problem, items, recall_alone=True)
            record = {"split": given.split, "seen": seen, "method": method, "known": known, "seed": seed}
            record |= {"settings": settings, **scores, "fit_s": round(time.monotonic() - started, 1)}
            with given.records.open("a") as file:
                file.write(json.dumps(record) + "\n")
                if (seen, method, seed) == (SEEN[0], METHODS[0], given.seeds[0]) and given.split == "test":
                    alike = pairs.chance(problem, items)
                    file.write(json.dumps({**record, "seen": "chance", "method": "", "mean_recall": alike}) + "\n")


if __name__ == "__main__":
    main()
