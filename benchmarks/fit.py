"""Time and memory of fitting ``transport``, beside ``cca`` and one epoch of heads on the same pools. One JSON line.

    OMP_NUM_THREADS=1 python benchmarks/fit.py                                  # pools of 10,000, 4,500 pairs
    OMP_NUM_THREADS=1 python benchmarks/fit.py --rows 200000 --pairs 20000

What `setclip.fit` adds to that is measured by benchmarks/fit_arrays.py.

Features are two noisy views of the same factors, as wide as those of EfficientNet-Lite0 and MiniLM. ``ratio`` is the
time of ``transport`` over that of ``cca`` and an epoch together, measured in turn in this process. Memory is the peak
of the process up to the end of ``transport``, which comes first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time

import torch

from setclip_cli.recipe.presets import Method
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.training.fit import fit

WIDTHS = (1280, 384)
FACTORS = 100
TOWERS = {
    "image": {"backbone": "timm:tf_efficientnet_lite0"},
    "caption": {"backbone": "sentence-transformers:all-MiniLM-L6-v2"},
}


def pools(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, 1280) and (rows, 384) of which row i of one belongs to row i of the other."""
    draw = torch.Generator().manual_seed(0)
    factors = torch.randn(rows, FACTORS, generator=draw) * torch.linspace(2, 0.2, FACTORS)
    left, right = (
        (factors @ torch.randn(FACTORS, width, generator=draw)).add_(torch.randn(rows, width, generator=draw), alpha=3)
        for width in WIDTHS
    )
    return left, right


def seconds(method: Method, left: torch.Tensor, right: torch.Tensor, pairs: torch.Tensor, steps: int = 1) -> float:
    """Of one fit."""
    recipe = Recipe.model_validate({"method": method, "towers": TOWERS, "train": {"steps": steps}})
    started = time.perf_counter()
    fit(recipe, left, right, pairs)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=4_500)
    given = parser.parse_args()
    left, right = pools(given.rows)
    pairs = torch.arange(given.pairs).repeat(2, 1).T.contiguous()
    transport = seconds("transport", left, right, pairs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cca = seconds("cca", left, right, pairs)
    batch = Recipe.model_validate({"method": "clip", "towers": TOWERS}).train.batch
    before_steps = seconds("set-clip", left, right, pairs)
    epoch = seconds("set-clip", left, right, pairs, steps=1 + given.rows // batch) - before_steps
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "rows": given.rows,
                "pairs": given.pairs,
                "transport_s": round(transport, 1),
                "cca_s": round(cca, 1),
                "epoch_s": round(epoch, 1),
                "ratio": round(transport / (cca + epoch), 2),
                "peak_gib": round(peak, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
