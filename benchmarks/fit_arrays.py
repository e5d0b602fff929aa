"""What `setclip.fit` on arrays adds to the bare training on tensors: the import and the call. One JSON line.

    OMP_NUM_THREADS=1 python benchmarks/fit_arrays.py                                   # auto, that is transport
    OMP_NUM_THREADS=1 python benchmarks/fit_arrays.py --method set-clip-plus --repeats 1

Pools of 10,000 x 768 and 10,000 x 384 with 200 pairs. ``bare_s`` is the inner function on float32 tensors that are
there already; ``fit_s`` is `setclip.fit` on the same numbers as numpy arrays. They are measured in turn, and their
medians are compared. ``added_s`` is the call without the training: it reads and checks the arrays. ``import_s`` is the
median time of ``import setclip_cli; setclip_cli.fit`` in five fresh processes that have imported torch already;
``import_with_torch_s`` counts torch too. All are seconds of the processor, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import setclip_cli as setclip
from setclip_cli.training.fit import Fitted
from setclip_cli.training.fit import fit as bare_fit

WIDTHS = (768, 384)
FACTORS = 100
IMPORT = """
import time
before = time.process_time()
import torch
torch_s = time.process_time() - before
import setclip_cli
setclip_cli.fit
print(torch_s, time.process_time() - before)
"""


def pools(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two noisy views of the same factors; row i of one belongs to row i of the other."""
    draw = torch.Generator().manual_seed(0)
    factors = torch.randn(rows, FACTORS, generator=draw) * torch.linspace(2, 0.2, FACTORS)
    left, right = (
        (factors @ torch.randn(FACTORS, width, generator=draw)).add_(torch.randn(rows, width, generator=draw), alpha=3)
        for width in WIDTHS
    )
    return left, right


def import_seconds(repeats: int = 5) -> tuple[float, float]:
    """Seconds of the import without torch and with it, in fresh processes."""
    found = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", IMPORT],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        of_torch, whole = (float(word) for word in done.stdout.split())
        found.append((whole - of_torch, whole))
    return statistics.median(own for own, _ in found), statistics.median(whole for _, whole in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    own, with_torch = import_seconds()
    left, right = pools(given.rows)
    pairs = torch.arange(given.pairs).repeat(2, 1).T.contiguous()
    arrays = left.numpy(), right.numpy(), pairs.numpy()
    towers = {"left": {"backbone": "vector"}, "right": {"backbone": "vector"}}
    recipe = setclip.Recipe.model_validate({"method": given.method, "towers": towers})
    bare, whole, added = [], [], []
    fitted: Fitted | None = None

    def timed(call: Any, *args: Any) -> tuple[Any, float]:
        started = time.process_time()
        result = call(*args)
        return result, time.process_time() - started

    for _ in range(given.repeats):
        fitted, seconds = timed(bare_fit, recipe, left, right, pairs)
        bare.append(seconds)
        aligned, seconds = timed(lambda: setclip.fit(*arrays, method=given.method))
        whole.append(seconds)
        with mock.patch("setclip_cli.arrays.fit.fit_method", return_value=fitted):
            added.append(timed(lambda: setclip.fit(*arrays, method=given.method))[1])
    bare_s, fit_s, added_s = (statistics.median(each) for each in (bare, whole, added))
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "rows": given.rows,
                "pairs": given.pairs,
                "method": aligned.method,
                "repeats": given.repeats,
                "bare_s": round(bare_s, 2),
                "fit_s": round(fit_s, 2),
                "added_s": round(added_s, 3),
                "import_s": round(own, 2),
                "import_with_torch_s": round(with_torch, 2),
                "fit_over_bare": round(fit_s / bare_s, 3),
                "import_and_added_over_bare": round((own + added_s) / bare_s, 3),
                "import_with_torch_and_added_over_bare": round((with_torch + added_s) / bare_s, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
