"""Speed and memory of the semantic density loss. Prints one JSON line.

    python benchmarks/losses.py                 # all of it, some minutes
    python benchmarks/losses.py --only loop     # one part: loop | products | large
    python benchmarks/losses.py --only products --device cuda

Each measurement of memory runs in a process of its own: the peak resident set of a process never falls.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.losses import published
from setclip_cli.losses.mutual import BLOCK
from setclip_cli.losses.sdd import sdd

PARTS = ("loop", "products", "large")
DIM = 256


def unit_rows(n: int, seed: int, device: str) -> Tensor:
    rows = torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))
    return F.normalize(rows + 0.05 * seed, dim=1).to(device).requires_grad_()


def published_loop(x: Tensor, y: Tensor) -> Tensor:
    """The published form point by point, as it was released: a Python loop over the points of both sets."""

    def density(point: Tensor, reference: Tensor) -> Tensor:
        h = published.BANDWIDTH
        variance = reference.var(dim=0).sum()
        squared = (point - reference).square().sum(1)
        return (3 * torch.exp(-squared / (4 * h * h * variance)) / (2 * math.pi * h * h)).sum() / 16

    def divergence(own: Tensor, other: Tensor) -> Tensor:
        total = own.new_zeros(())
        for point in own:
            p, q = density(point, own), density(point, other)
            total = total + (p - q) * (p.log() - q.log())
        return total

    def squared_range(rows: Tensor) -> Tensor:
        return (rows.amax(0) - rows.amin(0)).square().sum()

    return (divergence(x, y) + divergence(y, x)) * (1 / squared_range(x) + 1 / squared_range(y))


def timed(call: Callable[[], object], device: str, *, least: int = 1, seconds: float = 3.0) -> float:
    """Best time of some runs: processor time on a CPU, which other work hardly changes, else wall time."""
    best, spent, runs = math.inf, 0.0, 0
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    while runs < least or spent < seconds:
        started = clock()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        took = clock() - started
        best, spent, runs = min(best, took), spent + took, runs + 1
        if runs >= least and took > seconds:
            break
    return best


def forward_backward(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[], None]:
    def run() -> None:
        x.grad = y.grad = None
        torch.autograd.backward(loss(x, y))

    return run


def against_loop(device: str) -> dict[str, float]:
    """Forward and backward at n = m = 1,024: ours, the published form vectorised, and its per-point loop."""
    x, y = unit_rows(1024, 0, device), unit_rows(1024, 1, device)
    torch.testing.assert_close(published_loop(x, y), published.sdd(x, y), rtol=1e-4, atol=0)
    forward_backward(sdd, x, y)()
    ours = timed(forward_backward(sdd, x, y), device, least=5)
    vectorised = timed(forward_backward(published.sdd, x, y), device, least=3)
    loop = timed(forward_backward(published_loop, x, y), device, least=1)
    return {"sdd_s": ours, "published_s": vectorised, "published_loop_s": loop, "loop_over_sdd": loop / ours}


def bare_products(x: Tensor, y: Tensor) -> None:
    """The matrix products that forward and backward make, in the same tiles, and nothing else.

    The kernel matrices of x with x, y with y (half of each) and x with y: forward one product a tile, backward the same
    one again and one for the gradient of each side. That is 8 products of n m d; a walk over the whole of all four
    matrices, x with x, x with y, y with y and y with x, would take 16.
    """
    buffer = x.new_empty(BLOCK * BLOCK)
    for backward in (False, True):
        for a, b in ((x, x), (y, y), (x, y)):
            grad_a, grad_b = torch.empty_like(a[:BLOCK]), torch.empty_like(b[:BLOCK])
            for row in range(0, len(a), BLOCK):
                for column in range(row if a is b else 0, len(b), BLOCK):
                    left, right = a[row : row + BLOCK], b[column : column + BLOCK]
                    tile = buffer[: len(left) * len(right)].view(len(left), len(right))
                    torch.mm(left, right.T, out=tile)
                    if backward:
                        torch.mm(tile, right, out=grad_a[: len(left)])
                        if a is not b or row != column:
                            torch.mm(tile.T, left, out=grad_b[: len(right)])


def against_products(device: str, n: int = 16_384) -> dict[str, float]:
    x, y = unit_rows(n, 0, device), unit_rows(n, 1, device)
    bare_x, bare_y = x.detach(), y.detach()
    forward_backward(sdd, x[:2048].detach().requires_grad_(), y[:2048].detach().requires_grad_())()
    products, ours = math.inf, math.inf
    for _ in range(2):  # taken in turns, so that a busy machine disturbs both alike
        products = min(products, timed(lambda: bare_products(bare_x, bare_y), device, seconds=0))
        ours = min(ours, timed(forward_backward(sdd, x, y), device, seconds=0))
    return {"n": n, "sdd_s": ours, "products_s": products, "sdd_over_products": ours / products}


def peak_memory(n: int, device: str) -> dict[str, float]:
    """Peak memory of one forward and backward above the inputs and their gradients, and its wall time."""
    x, y = unit_rows(n, 0, device), unit_rows(n, 1, device)
    small = (rows[:2048].detach().requires_grad_() for rows in (x, y))
    forward_backward(sdd, *small)()  # libraries load their own buffers once
    x.grad, y.grad = torch.zeros_like(x), torch.zeros_like(y)
    started = time.perf_counter()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.autograd.backward(sdd(x, y))
        torch.cuda.synchronize()
        above, whole = torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_allocated()
    else:
        with ResidentPeak() as resident:
            torch.autograd.backward(sdd(x, y))
        above, whole = resident.peak - resident.before, resident.peak
    return {
        "n": n,
        "wall_s": time.perf_counter() - started,
        "peak_above_inputs_mib": above / 2**20,
        "peak_mib": whole / 2**20,
    }


class ResidentPeak:
    """Samples the resident set of this process every 5 ms."""

    def __enter__(self) -> ResidentPeak:
        self.before = self.peak = self._resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, self._resident())

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_own_process(n: int, device: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--memory", str(n), "--device", device]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part of the measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(json.dumps(peak_memory(arguments.memory, arguments.device)))
        return
    device, found = arguments.device, dict[str, Any]()
    for part in PARTS if arguments.only is None else [arguments.only]:
        if part == "loop":
            found[part] = against_loop(device)
        elif part == "products":
            found[part] = against_products(device) | {"memory": in_own_process(16_384, device)}
        else:
            found[part] = in_own_process(65_536, device)
    machine = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(machine | found))


if __name__ == "__main__":
    main()
