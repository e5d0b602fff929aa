"""Full-gallery retrieval metrics against the bare matrix product that they need, in time and memory.

    python benchmarks/evaluate.py --rows 100000 --dim 256

Each case runs in a process of its own, so that its peak memory is its own. Prints one JSON line a case:

    product   the blocked product alone, each block dropped
    pairs     one relevant row a query: ranks by counting
    groups    five relevant rows a query, as five captions of an image
    labels    ten classes, a tenth of the gallery relevant to each query: ranks by buckets

``seconds`` and ``cpu_seconds`` are one direction, all metrics; ``ratio`` compares CPU time with the product of the same
run, so that a busy machine does not spoil it (set OMP_NUM_THREADS=1: idle BLAS threads spin).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time

import numpy as np

CASES = ("product", "pairs", "groups", "labels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="queries, and as many gallery rows")
    parser.add_argument("--queries", type=int, default=0, help="only so many queries against the whole gallery; 0: all")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(given.case, given.rows, given.queries or given.rows, given.dim)))
        return
    product = None
    for case in given.cases:
        words = [sys.executable, __file__, "--case", case, "--rows", str(given.rows),
                 "--queries", str(given.queries), "--dim", str(given.dim)]  # fmt: skip
        found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        product = found["cpu_seconds"] if case == "product" else product
        ratio = {"ratio": round(found["cpu_seconds"] / product, 2)} if product else {}
        print(json.dumps({**found, **ratio}), flush=True)


def measure(case: str, rows: int, asked: int, dim: int) -> dict[str, object]:
    """Runs one case and reads the process's own peak memory."""
    from setclip_cli.evaluation import metrics, similarity
    from setclip_cli.evaluation.relevance import relevance_by_key

    rng = np.random.default_rng(0)
    queries, gallery = (_unit(rng, count, dim) for count in (asked, rows))
    numbers = np.arange(rows)
    keys = {"pairs": numbers, "groups": numbers // 5, "labels": numbers % 10}
    started, cpu_started = time.perf_counter(), time.process_time()
    if case == "product":
        columns = gallery.T
        step = max(1, similarity.BLOCK_VALUES // rows)
        for start in range(0, asked, step):
            queries[start : start + step] @ columns
    else:
        names = [str(key) for key in keys[case]]
        metrics.retrieve(queries, gallery, relevance_by_key(names[:asked], names))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "benchmark": "evaluate",
        "case": case,
        "rows": rows,
        "queries": asked,
        "dim": dim,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_mib": round(peak / 2**20),
        "machine": platform.machine(),
        "numpy": np.__version__,
    }


def _unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    drawn = rng.standard_normal((rows, dim), dtype=np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn


if __name__ == "__main__":
    main()
