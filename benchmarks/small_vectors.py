"""What int8, bits and nested widths keep of recall at 10, on real data with true pairs. Prints one JSON line.

    OMP_NUM_THREADS=1 python benchmarks/small_vectors.py --data ../shared/data
    OMP_NUM_THREADS=1 python benchmarks/small_vectors.py --data ../shared/data --nested

RSICD and Flickr8k (``true_pairs``) with 200 known items; test items and their texts, both ways. ``kept`` is the recall
at 10 of the small type divided by that of float32, over all queries, seeds and both ways. ``same`` is the mean share of
float32's first ten rows that it finds.
``hamming`` counts the bits that differ and compares nothing in full; ``rescored_by_int8`` compares the query with the
int8 rows of the first 100 that the bits find, which are a quarter of the bytes of these 100 rows alone.

With ``--nested`` the recall at 10 of a RUN with nested widths at each of its widths, beside that of a RUN that was
trained at this width alone, and of the first values of a RUN that was trained at the whole width alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import true_pairs

from setclip_cli.embedding import vectors
from setclip_cli.embedding.codes import BitCode, encode, unit
from setclip_cli.embedding.vectors import BitRows, FloatRows, Int8Rows
from setclip_cli.losses.nested import narrowed
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.training.fit import fit

NAMES = ("rsicd", "flickr8k")
KNOWN = 200
TOP = 10
WIDTHS = (64, 128, 256)
METHODS: dict[str, dict[str, Any]] = {
    "clip": {"train": {"steps": 500}},
    "set-clip": {"train": {"steps": 400}},
    "transport": {},
}
QUERIES = 800  # of each way at most: every second or third one
TOWERS = {"left": {"backbone": "vector"}, "right": {"backbone": "vector"}}
Found = dict[str, list[float]]


def embedded(problem: true_pairs.Problem, data: true_pairs.Items, recipe: Recipe) -> list[torch.Tensor]:
    """Unit rows of all items and all texts."""
    fitted = fit(recipe, problem.left, problem.right, problem.pairs)
    with torch.inference_mode():
        return [
            encoder(rows).float() for encoder, rows in zip(fitted.encoders, (data.features, data.texts), strict=True)
        ]


def directions(problem: true_pairs.Problem, data: true_pairs.Items, sides: list[torch.Tensor]) -> list[tuple[Any, ...]]:
    """(queries, gallery, the rows of the gallery that are right for each query, the rest of the gallery's side)."""
    items, texts = problem.items, problem.texts
    place = {item: row for row, item in enumerate(items.tolist())}
    own = [place[item] for item in data.item_of[texts].tolist()]
    of_item: list[set[int]] = [set() for _ in items]
    for text, item in enumerate(own):
        of_item[item].add(text)
    left, right = sides[0].numpy(), sides[1].numpy()
    return [
        (left[items], right[texts], of_item, right[problem.pool_texts]),
        (right[texts], left[items], [{item} for item in own], left[problem.pool]),
    ]


def hits(answers: list[list[int]], right: list[set[int]]) -> np.ndarray[Any, Any]:
    return np.array([bool(relevant & set(found[:TOP])) for found, relevant in zip(answers, right, strict=True)])


def small_types(queries: Any, gallery: Any, right: list[set[int]], calibration: Any, totals: dict[str, Found]) -> None:
    code = BitCode.fit(unit(calibration))
    bits = BitRows(code.bits(gallery), code)
    int8 = Int8Rows(encode(gallery, "int8"))
    fine = FloatRows(unit(encode(gallery, "int8")))
    exact = [FloatRows(gallery).nearest(query, TOP)[0] for query in queries]
    expected = hits(exact, right)

    def by_hamming(query: Any) -> list[int]:
        differ = np.unpackbits(bits._stored ^ code.bits(query[None]), axis=1).sum(1)
        return [int(row) for row in np.argsort(differ, kind="stable")[:TOP]]

    def rescored(query: Any) -> list[int]:
        rows = np.array(bits.nearest(query, 100)[0])
        scores = fine._vectors[rows] @ query
        return [int(row) for row in rows[np.argsort(-scores, kind="stable")[:TOP]]]

    ways = {
        "float16": lambda query: FloatRows(unit(encode(gallery, "float16"))).nearest(query, TOP)[0],
        "int8": lambda query: int8.nearest(query, TOP)[0],
        "ubinary": lambda query: bits.nearest(query, TOP)[0],
        "hamming": by_hamming,
        "rescored_by_int8": rescored,
    }
    for name, way in ways.items():
        found = [way(query) for query in queries]
        totals[name]["hits"].append(float(hits(found, right).sum()))
        totals[name]["expected"].append(float(expected.sum()))
        same = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)])
        totals[name]["same"].append(float(same))


def summary(found: dict[str, Found]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "kept": round(sum(one["hits"]) / sum(one["expected"]), 4),
            "same": round(float(np.mean(one["same"])), 4),
        }
        for name, one in found.items()
    }


def by_type(given: argparse.Namespace) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    over_all: dict[str, Found] = defaultdict(lambda: defaultdict(list))
    for name in given.names:
        data = true_pairs.load(name, given.data, given.cache)
        for method in given.methods:
            own: dict[str, Found] = defaultdict(lambda: defaultdict(list))
            for seed in range(given.seeds):
                problem = true_pairs.draw(data, KNOWN, seed)
                recipe = Recipe.model_validate({"method": method, "towers": TOWERS, "seed": seed} | METHODS[method])
                sides = embedded(problem, data, recipe)
                for queries, gallery, right, rest in directions(problem, data, sides):
                    step = -(-len(queries) // QUERIES)
                    small_types(queries[::step], gallery, right[::step], rest[:1024], own)
                width = sides[0].shape[1]
            answer[f"{name}/{method}"] = {"width": width, **summary(own)}
            for way, values in own.items():
                for key, each in values.items():
                    over_all[way][key] += each
    return {"by_data": answer, "all": summary(over_all)}


def by_width(given: argparse.Namespace) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for name in given.names:
        data = true_pairs.load(name, given.data, given.cache)
        for method in [one for one in given.methods if one != "transport"]:
            found: dict[str, list[float]] = defaultdict(list)
            for seed in range(given.seeds):
                problem = true_pairs.draw(data, KNOWN, seed)

                def recall(sides: list[torch.Tensor], width: int, problem: Any = problem, data: Any = data) -> float:
                    cut = [narrowed(side, width) for side in sides]
                    both = [
                        hits([FloatRows(gallery).nearest(query, TOP)[0] for query in queries], right).mean()
                        for queries, gallery, right, _ in directions(problem, data, cut)
                    ]
                    return 100 * float(np.mean(both))

                for kind in ("nested", "alone", "cut"):
                    for width in WIDTHS:
                        if kind == "alone" or width == WIDTHS[-1 if kind == "nested" else 0]:
                            dim = width if kind == "alone" else WIDTHS[-1]
                            nested = {"nested": [*WIDTHS]} if kind == "nested" else {}
                            settings = {"method": method, "towers": TOWERS, "seed": seed, "extra_encoders": NO_EXTRAS}
                            recipe = Recipe.model_validate(settings | {"projection": {"dim": dim} | nested})
                            sides = embedded(problem, data, recipe)
                            for shown in [width] if kind == "alone" else WIDTHS:
                                found[f"{kind}/{shown}"].append(recall(sides, shown))
            answer[f"{name}/{method}"] = {key: round(float(np.mean(values)), 2) for key, values in found.items()}
    return {"recall_at_10": answer}


NO_EXTRAS = dict.fromkeys(("linear", "diffused", "shifted", "partner"), 0.0)


def speed(rows: int, dim: int) -> dict[str, float]:
    """Milliseconds of one search in many rows."""
    gallery = unit(np.random.default_rng(0).standard_normal((rows, dim), dtype=np.float32))
    code = BitCode.fit(gallery[:1024])
    kinds = {
        "float32": FloatRows(gallery),
        "int8": Int8Rows(encode(gallery, "int8")),
        "ubinary": BitRows(code.bits(gallery), code),
    }
    found = {}
    for name, one in kinds.items():
        times = []
        for query in gallery[:5]:
            started = time.perf_counter()
            one.nearest(query, TOP)
            times.append(time.perf_counter() - started)
        found[f"{name}_ms"] = round(1000 * float(np.median(times)), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/setclip/benchmarks")
    parser.add_argument("--names", nargs="+", default=list(NAMES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--nested", action="store_true")
    given = parser.parse_args()
    answer = by_width(given) if given.nested else by_type(given) | {"speed": speed(100_000, 256)}
    print(json.dumps({"known": KNOWN, "seeds": given.seeds, "shortlist": vectors.SHORTLIST, **answer}))


if __name__ == "__main__":
    main()
