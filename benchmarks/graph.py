"""Time and memory of the graph teacher's walks over one large pool. Prints one JSON line.

    python benchmarks/graph.py                      # a million rows, 70 pairs: some minutes
    python benchmarks/graph.py --rows 50000

Rows lie in groups, as captions do, and some are copies of others. Neighbours come from FAISS above 50,000 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time

import torch

from setclip_cli.encoders import graph
from setclip_cli.encoders.neighbours import Neighbours

GROUPS = 1000
CHECKED = 500  # rows whose neighbours are compared with the exact ones


def pool_of(rows: int, width: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(GROUPS, width, generator=draw)
    pool = centres[torch.randint(GROUPS, (rows,), generator=draw)]
    return pool.add_(torch.randn(rows, width, generator=draw), alpha=0.7)


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=70)
    arguments = parser.parse_args()
    pool = pool_of(arguments.rows, arguments.width)
    before, k = peak_gib(), graph.neighbours_in(arguments.rows)

    started = time.perf_counter()
    finder = Neighbours(pool)
    indexed = time.perf_counter() - started
    some = pool[:: max(1, len(pool) // CHECKED)][:CHECKED]
    found, _ = finder.nearest(some, k)
    exact = (torch.nn.functional.normalize(some, dim=1) @ torch.nn.functional.normalize(pool, dim=1).T).topk(k).indices
    shared = (found[:, :, None] == exact[:, None, :]).any(2).float().mean()

    started = time.perf_counter()
    mass = graph.diffuse(pool, torch.arange(arguments.pairs))
    walked = time.perf_counter() - started
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "torch": torch.__version__,
                "rows": arguments.rows,
                "neighbours": k,
                "pairs": arguments.pairs,
                "index_s": round(indexed, 1),
                "neighbours_found": round(float(shared), 4),
                "index_search_and_walks_s": round(walked, 1),
                "reached": round(float((mass > 1e-3 / len(mass)).any(1).float().mean()), 4),
                "peak_gib": round(peak_gib(), 2),
                "peak_before_gib": round(before, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
