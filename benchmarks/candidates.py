"""How often a row of the right class is among the nine candidates that `setclip label` shows. Prints one JSON line.

    OMP_NUM_THREADS=1 python benchmarks/candidates.py --data ../shared/data

An annotator who knows the classes answers about the items that `setclip suggest` takes, in its order. After some
answers the next items are looked at: ``best`` are the nine highest scores, ``different`` the same without copies of one
another, ``page`` is what the page shows. Settings were chosen with the default split, validation.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import measured
import numpy as np
import torch
from suggest import Classes

from setclip_cli.encoders import FeatureTransform
from setclip_cli.labelling.candidates import AXES, Partners, different
from setclip_cli.labelling.choose import choose_rows

SHOWN = 9
ANSWERS = (0, 1, 3, 7, 20, 70)
LOOKED_AT = 20  # items after each number of answers
RULES = ("best", "different", "page")


def measure(name: str, seed: int, given: argparse.Namespace) -> dict[str, dict[int, list[bool]]]:
    """Rule -> answers -> for each item whether a row of its class is shown."""
    pools = Classes(name, seed, given)
    sides = tuple(SimpleNamespace(features=side, embeddings=None) for side in (pools.left, pools.right))
    known: Any = SimpleNamespace(sides=sides, pairs=torch.zeros((0, 2), dtype=torch.int64))
    partners = Partners(known)
    rows, others = (FeatureTransform.fit(side, AXES)(side) for side in (pools.left, pools.right))
    order = [row for row, _ in choose_rows(rows, max(ANSWERS) + LOOKED_AT, seed=seed, known=[])]
    answered = [(left, right) for left, right in pools.answered(np.array(order)).tolist()]
    labels = np.asarray(pools.problem.right.labels)
    found: dict[str, dict[int, list[bool]]] = {rule: defaultdict(list) for rule in RULES}
    for count in ANSWERS:
        partners.learn(answered[:count])
        for row in order[count : count + LOOKED_AT]:
            shown = {"page": partners.likely(0, row, SHOWN)}
            if (scores := partners.scores(0, row)) is not None:
                shown |= {"best": scores.topk(SHOWN).indices.tolist(), "different": different(scores, others, SHOWN)}
            for rule, candidates in shown.items():
                found[rule][count].append(pools.labels[row] in set(labels[candidates]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--names", nargs="+", default=["rs", "protein", "quickstart"], choices=list(measured.SOURCES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--split", default="validation", choices=["test", "validation"])
    given = parser.parse_args()
    result: dict[str, Any] = {"machine": platform.machine(), "seeds": len(given.seeds), "items": LOOKED_AT}
    for name in given.names:
        runs = [measure(name, seed, given) for seed in given.seeds]
        for rule in RULES:
            counts = [count for count in ANSWERS if runs[0][rule][count]]
            shares = {count: np.mean([hit for run in runs for hit in run[rule][count]]) for count in counts}
            result |= {f"{name}/{rule}/{count}": round(float(share), 3) for count, share in shares.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
