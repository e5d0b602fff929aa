"""Whether probabilities of answers are right, and whether conformal sets hold the partner. Prints one JSON line.

    export OMP_NUM_THREADS=1
    python benchmarks/trust.py --split validation --seeds 100 101 --records trust_validation.jsonl
    python benchmarks/trust.py --records trust.jsonl
    python benchmarks/trust.py --records trust.jsonl --table

The method ``transport``, calibrated as `align` does it, is asked in two galleries:

    new     the items of the split and all their texts, which training has not seen
    pool    the rows of the training pools without a known partner, among all rows of the pools, as `match` asks them

``ece`` is the expected calibration error of the first answers of both directions, in 15 bins of equal mass;
``ece_left`` and ``ece_right`` are those of one direction. An answer is right if it is a partner, or a copy of one.
``coverage`` is the share of pairs whose partner is in the set, ``size`` the mean share of the gallery in a set; both
are means of the two directions. Every row has a partner here; benchmarks/unmatched.py has pools where many have none.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pairs as pairs_benchmark
import torch
import true_pairs
from torch import Tensor

from setclip_cli.training.calibration import calibrated_by_folds
from setclip_cli.training.fit import fit
from setclip_cli.trust.answers import best_answers
from setclip_cli.trust.calibration import expected_calibration_error
from setclip_cli.trust.probability import Directions, probabilities, scores_of_pairs

COVERAGES = (0.8, 0.9, 0.95)
EVERY = slice(None)


def measure(data: true_pairs.Items, known: int | float, seed: int, split: str) -> dict[str, float]:
    """One seed's record."""
    problem = true_pairs.draw(data, known, seed, split=split)
    recipe = pairs_benchmark.recipe_of("transport", {}, seed=seed)
    items = problem.pairs[:, 0]
    started = time.perf_counter()
    fitted = fit(recipe, problem.left, problem.right, problem.pairs)
    fit_s = time.perf_counter() - started
    started = time.perf_counter()
    calibration = calibrated_by_folds(recipe, fitted, problem.left, problem.right, problem.pairs, items)
    assert calibration is not None
    found = {"fit_s": fit_s, "calibration_s": time.perf_counter() - started, "items": len(set(items.tolist()))}
    directions = calibration.directions()
    scored = data.features[torch.from_numpy(problem.items)], data.texts[torch.from_numpy(problem.texts)]
    with torch.no_grad():
        new, pool = (
            [encoder(side) for encoder, side in zip(fitted.encoders, sides, strict=True)]
            for sides in (scored, (problem.left, problem.right))
        )
    free = torch.ones(len(problem.left), dtype=torch.bool)
    free[items] = False
    own = _places(problem.pool, data.item_of[problem.pool_texts])
    asked = (free, free[own])
    words = data.wording[problem.texts], data.wording[problem.pool_texts]
    of_new = _places(problem.items, data.item_of[problem.texts])
    found |= {f"new/{key}": value for key, value in _score(directions, new, of_new, words[0]).items()}
    return found | {f"pool/{key}": value for key, value in _score(directions, pool, own, words[1], asked).items()}


def _places(items: np.ndarray, wanted: np.ndarray) -> Tensor:
    """For each wanted item its place among ``items``."""
    order = np.argsort(items)
    return torch.from_numpy(order[np.searchsorted(items[order], wanted)])


def _score(
    directions: Directions,
    sides: Sequence[Tensor],
    own: Tensor,
    wording: np.ndarray,
    asked: tuple[Tensor, Tensor] | None = None,
) -> dict[str, float]:
    """Of unit embeddings of items and texts.

    Args:
        own: (m,) the item of each text.
        wording: (m,) equal for equal texts.
        asked: (n,) and (m,) bool: which rows are queries; all by default.
    """
    left, right = sides
    asked = asked or (torch.ones(len(left), dtype=torch.bool), torch.ones(len(right), dtype=torch.bool))
    answers = best_answers(left, right, (directions[0].temperature, directions[1].temperature), 1)
    said = {(item, words) for item, words in zip(own.tolist(), wording.tolist(), strict=True)}
    judged, right_ones = [], []
    for side in (0, 1):
        rows = answers[side].rows[:, 0]
        every = torch.arange(len(rows))
        first = probabilities(directions, answers, side, every, rows[:, None], answers[side].cosines)[:, 0].double()
        judged.append(first[asked[side]].numpy())
        if side == 0:
            hit = torch.tensor([(item, words) in said for item, words in enumerate(wording[rows.numpy()].tolist())])
        else:
            hit = rows == own
        right_ones.append(hit[asked[side]].double().numpy())
    errors = [expected_calibration_error(*one) for one in zip(judged, right_ones, strict=True)]
    both, right_of_both = np.concatenate(judged), np.concatenate(right_ones)
    found = {
        "ece": expected_calibration_error(both, right_of_both),
        "ece_left": errors[0],
        "ece_right": errors[1],
        "mean_probability": float(both.mean()),
        "share_right": float(right_of_both.mean()),
        "brier": float(((both - right_of_both) ** 2).mean()),
    }
    scores = scores_of_pairs(directions, answers, left @ right.T, EVERY, EVERY)
    texts = asked[1].nonzero().squeeze(1)
    partners = scores[own[texts], texts]
    for coverage in COVERAGES:
        limits = [direction.threshold(coverage) for direction in directions]
        held = [float((partners >= limit).double().mean()) for limit in limits]
        sizes = [
            float((rows >= limit).double().mean())
            for rows, limit in zip((scores[asked[0]], scores[:, asked[1]]), limits, strict=True)
        ]
        found |= {f"coverage_{100 * coverage:.0f}": float(np.mean(held))}
        found |= {f"size_{100 * coverage:.0f}": float(np.mean(sizes))}
    return found


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: means over seeds; of the calibration error also the largest."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["split"], record["data"], record["known"]].append(record)
    shown = ["ece", "ece_left", "ece_right", "share_right", *(f"coverage_{100 * one:.0f}" for one in COVERAGES)]
    shown += [f"size_{100 * one:.0f}" for one in COVERAGES]
    lines = [f"| data, known | gallery | seeds | {' | '.join(shown)} |", "|" + " --- |" * (len(shown) + 3)]
    for (_, name, known), group in groups.items():
        for gallery in ("new", "pool"):
            cells = []
            for key in shown:
                values = np.array([record[f"{gallery}/{key}"] for record in group])
                spread = f" (max {values.max():.3f})" if key == "ece" else ""
                if key.startswith("coverage") and len(values) > 1:
                    spread = f" ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"
                cells.append(f"{values.mean():.3f}{spread}")
            lines.append(f"| {name}, {known} | {gallery} | {len(group)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--records", type=Path, default=Path("trust.jsonl"))
    parser.add_argument("--names", nargs="+", default=["rsicd", "flickr8k"], choices=list(true_pairs.SOURCES))
    parser.add_argument("--known", nargs="+", default=["50", "200", "0.1"], help="known items; 0.1 is a share")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--table", action="store_true", help="print Markdown of the records and stop")
    given = parser.parse_args()
    records = [json.loads(line) for line in given.records.read_text().splitlines()] if given.records.exists() else []
    if given.table:
        print(table(records))
        return
    done = {(record["split"], record["data"], record["known"], record["seed"]) for record in records}
    for seed, name, known in product(given.seeds, given.names, given.known):
        if (given.split, name, known, seed) in done:
            continue
        data = true_pairs.load(name, given.data, given.cache)
        place = {"split": given.split, "data": name, "known": known, "seed": seed}
        record = place | measure(data, pairs_benchmark.count(known, data), seed, given.split)
        records.append(record)
        with given.records.open("a") as file:
            file.write(json.dumps(record) + "\n")
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(machine | {"records": len(records)}))


if __name__ == "__main__":
    main()
