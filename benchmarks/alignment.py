"""How well each method aligns real data that was never paired, with few known pairs. Prints one JSON line.

    python benchmarks/alignment.py --data ../shared/data --records alignment.jsonl
    python benchmarks/alignment.py --records alignment.jsonl --table       # Markdown of what was measured

Every fit is one line of ``--records``; running again does what is missing. Labels draw the pairs and score, no more.
Settings were chosen with ``--split validation``; ``--split test`` (default) scores on sources that it never touches.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from pathlib import Path

import measured
import numpy as np
import torch
from scipy.stats import t as student

from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.fit import fit

RECIPE = Path(__file__).with_name("alignment.toml")
METHODS = (
    "clip", "s-clip", "set-clip-published", "set-clip", "set-clip-plus", "transport",
    "asif", "asif-graph", "cca", "procrustes", "ridge",
)  # fmt: skip
WITHOUT_PAIRS = ("set-clip-plus", "set-clip")
SCORES = ("zero_shot", "map", "precision_at_1")
Key = tuple[str, str, int, bool, str, str]  # data, counts, pairs, cover, split, method


def measure(problem: measured.Draw, method: str, pairs: int, seed: int) -> dict[str, float]:
    """Fits one method to one problem and scores it."""
    recipe = load_recipe(RECIPE, [f'method="{method}"', f"seed={seed}", f"pairs={pairs}"])
    started = time.perf_counter()
    fitted = fit(recipe, problem.left.features, problem.right.features, problem.pairs)
    wall_s = time.perf_counter() - started
    with torch.no_grad():
        left, right = (
            encoder(table.features)
            for encoder, table in zip(fitted.encoders, (problem.left_scored, problem.right_scored), strict=True)
        )
    return measured.score(left, right, problem) | {"wall_s": wall_s} | fitted.findings


def key_of(record: dict[str, object]) -> Key:
    return tuple(record[name] for name in ("data", "counts", "pairs", "cover", "split", "method"))  # type: ignore[return-value]


def summary(records: list[dict[str, float]]) -> dict[str, tuple[float, float | None]]:
    """Score -> mean and, of more than one, standard deviation."""
    return {
        name: (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)
        for name in SCORES
        if (values := [record[name] for record in records])
    }


def difference(ours: list[dict[str, float]], theirs: list[dict[str, float]], score: str) -> tuple[float, float, int]:
    """Mean of ours - theirs over the seeds that both have, half its 95% interval (Student), and the seeds."""
    other = {record["seed"]: record[score] for record in theirs}
    values = [record[score] - other[record["seed"]] for record in ours if record["seed"] in other]
    if len(values) < 2:
        return float(np.mean(values)) if values else float("nan"), float("nan"), len(values)
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half), len(values)


def table(records: list[dict[str, object]], ours: str) -> str:
    """Markdown: a table for each setting, best first, with the paired difference of ``ours`` to each method."""
    groups: dict[Key, list[dict[str, float]]] = defaultdict(list)
    for record in records:
        groups[key_of(record)].append(record)  # type: ignore[arg-type]
    lines: list[str] = []
    for setting in sorted({key[:5] for key in groups}):
        data, counts, pairs, cover, split = setting
        kinds = "all classes" if counts == "all" else f"{counts} class counts"
        title = f"{data}, {kinds}, {pairs} pairs{'' if cover else ' that miss classes'}, {split} split"
        lines += [f"\n### {title}\n", f"| method | zero-shot | mAP | P@1 | {ours} - method: zero-shot | mAP | seeds |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        methods = {key[5]: group for key, group in groups.items() if key[:5] == setting}
        for method, group in sorted(methods.items(), key=lambda item: -summary(item[1])["map"][0]):
            cells = [
                f"{mean:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")
                for mean, deviation in summary(group).values()
            ]
            for score in SCORES[:2]:
                mean, half, _ = difference(methods.get(ours, []), group, score)
                interval = "" if half != half else f" ± {half:.1f}"
                cells.append("" if method == ours or mean != mean else f"{mean:+.1f}{interval}")
            lines.append(f"| {method} | {' | '.join(cells)} | {len(group)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--records", type=Path, default=Path("alignment.jsonl"))
    parser.add_argument("--name", default="rs", choices=tuple(measured.SOURCES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--pairs", nargs="+", type=int, default=[0, 7, 21, 70, 700])
    parser.add_argument("--counts", nargs="+", default=["equal", "natural"], choices=["equal", "natural", "all"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--uncovered", action="store_true", help="draw pairs that need not cover every class")
    parser.add_argument("--table", action="store_true", help="print Markdown of the records and stop")
    parser.add_argument("--ours", default="set-clip-plus", help="the method that the table compares the others with")
    arguments = parser.parse_args()

    lines = arguments.records.read_text().splitlines() if arguments.records.exists() else []
    records = [json.loads(line) for line in lines]
    if arguments.table:
        print(table(records, arguments.ours))
        return
    done = {(key_of(record), record["seed"]) for record in records}
    left, right = measured.load(arguments.name, arguments.data, arguments.cache)
    for seed in arguments.seeds:
        for pairs in arguments.pairs:
            for counts in arguments.counts:
                problem = None
                for method in arguments.methods:
                    key = (arguments.name, counts, pairs, not arguments.uncovered, arguments.split, method)
                    if (key, seed) in done or (not pairs and method not in WITHOUT_PAIRS):
                        continue
                    problem = problem or measured.draw(
                        left, right, pairs, seed, counts=counts, cover=not arguments.uncovered, split=arguments.split
                    )
                    names = ("data", "counts", "pairs", "cover", "split", "method")
                    record = dict(zip(names, key, strict=True)) | {"seed": seed}
                    record |= measure(problem, method, pairs, seed)
                    records.append(record)
                    with arguments.records.open("a") as file:
                        file.write(json.dumps(record) + "\n")
    groups: dict[Key, list[dict[str, float]]] = defaultdict(list)
    for record in records:
        groups[key_of(record)].append(record)
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(machine | {"results": [{"setting": key, **summary(group)} for key, group in groups.items()]}))


if __name__ == "__main__":
    main()
