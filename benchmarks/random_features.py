"""Random Fourier features in place of the kernel sums of the density loss, against a sample of the reference rows.

    python benchmarks/random_features.py error       value and gradient against the exact loss, 65,536 reference rows
    python benchmarks/random_features.py cost        time of a step at 1,000,000 reference rows

A step has some points of each side, and a large reference set of each side in which their densities are taken:

    SDD = mean_x [log p_X(x) - log p_Y(x)] + mean_y [log p_Y(y) - log p_X(y)],  log p_D(z) = log Σ_j k(z, d_j) - log |D|

The gradient is that at the points. Three ways to take log Σ_j k(z, d_j) with F numbers in place of |D| rows:

    sample      the kernel sum over F random rows of D: what a queue (objective.sdd.queue) or a bank of F rows does
    fourier     cos and sin of F / 2 random directions (Rahimi & Recht 2007): unbiased, but may be negative
    positive    exp of F random directions (Choromanski et al. 2021, arXiv:2009.14794): never negative

Directions are orthogonal in blocks (Yu et al. 2016, arXiv:1610.09072), which is never worse. At one F, all three cost
the same products in a step: points x F x width. Prints one JSON line for each setting.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.losses.kernels import log_kernel_sum

WIDTH = 256
CLUSTERS = 100
BANDWIDTHS = (0.2, 0.5, 2.0)  # the default of sdd; the density gap's order; the median rule for unrelated rows
SIZES = [1024, 4096, 16_384]
WAYS = ("sample", "fourier", "positive")
BLOCK = 8192  # reference rows of which features are held at once

LogSums = Callable[[Tensor], Tensor]  # from (b, d) points to (b,) log Σ_j k(z, d_j)


def sets(rows: int, kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sets of unit rows: spread (as random heads give), or in clusters that the two sides fill differently."""
    draw = torch.Generator().manual_seed(seed)
    if kind == "spread":
        return tuple(F.normalize(torch.randn(rows, WIDTH, generator=draw) + 0.3, dim=1) for _ in range(2))  # type: ignore[return-value]
    centres = torch.randn(CLUSTERS, WIDTH, generator=draw)
    made = []
    for _ in range(2):
        shares = torch.rand(CLUSTERS, generator=draw)
        which = torch.multinomial(shares, rows, replacement=True, generator=draw)
        moved = centres + 0.3 * torch.randn(CLUSTERS, WIDTH, generator=draw)
        made.append(F.normalize(moved[which] + 0.6 * torch.randn(rows, WIDTH, generator=draw), dim=1))
    return made[0], made[1]


def directions(count: int, scale: float, draw: torch.Generator) -> Tensor:
    """(count, d) from N(0, 2 / s), orthogonal within blocks of d."""
    blocks = []
    for _ in range(-(-count // WIDTH)):
        square, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=draw))
        blocks.append(square * torch.randn(WIDTH, WIDTH, generator=draw).norm(dim=1, keepdim=True))
    return torch.cat(blocks)[:count] * math.sqrt(2 / scale)


def exact(reference: Tensor, scale: float) -> LogSums:
    return lambda points: log_kernel_sum(points, reference, [scale])[:, 0]


def sample(reference: Tensor, scale: float, size: int, draw: torch.Generator) -> LogSums:
    rows = reference[torch.randperm(len(reference), generator=draw)[:size]]
    return lambda points: log_kernel_sum(points, rows, [scale])[:, 0] + math.log(len(reference) / len(rows))


def fourier(reference: Tensor, scale: float, size: int, draw: torch.Generator) -> LogSums:
    turns = directions(size // 2, scale, draw)

    def features(rows: Tensor) -> Tensor:
        angles = rows @ turns.T
        return torch.cat([angles.cos(), angles.sin()], 1) * math.sqrt(2 / size)

    summed = torch.zeros(size)
    for part in torch.split(reference, BLOCK):
        summed += features(part).sum(0)
    # a sum below that of one far row is set to it: its logarithm has to be finite, and then has no gradient
    return lambda points: (features(points) @ summed).clamp_min(math.exp(-4 / scale)).log()


def positive(reference: Tensor, scale: float, size: int, draw: torch.Generator) -> LogSums:
    turns = directions(size, scale, draw)

    def logs(rows: Tensor) -> Tensor:
        return rows @ turns.T - rows.square().sum(1, keepdim=True) * (2 / scale)

    summed = torch.full((size,), -math.inf)
    for part in torch.split(reference, BLOCK):
        summed = torch.logaddexp(summed, logs(part).logsumexp(0))
    return lambda points: (logs(points) + summed).logsumexp(1) - math.log(size)


MADE = {"sample": sample, "fourier": fourier, "positive": positive}


def loss(points: tuple[Tensor, Tensor], sums: tuple[LogSums, LogSums]) -> tuple[Tensor, Tensor, Tensor]:
    """The value, the (b, 4) log sums, and the gradient at the points of both sides. Both sets have as many rows."""
    x, y = (rows.clone().requires_grad_() for rows in points)
    logs = torch.stack([sums[0](x), sums[1](x), sums[1](y), sums[0](y)], 1)
    value = (logs[:, 0] - logs[:, 1]).mean() + (logs[:, 2] - logs[:, 3]).mean()
    gradients = torch.autograd.grad(value, (x, y))
    return value.detach(), logs.detach(), torch.cat(gradients)


def error(rows: int, points: int, seeds: int, sizes: list[int]) -> None:
    for kind in ("clusters", "spread"):
        left, right = sets(rows + points, kind)
        centre = (left.mean(0) + right.mean(0)) / 2  # shorter rows have better features
        # the points are other rows of the same distribution: a queue holds earlier batches
        chosen = left[:points] - centre, right[:points] - centre
        left, right = left[points:] - centre, right[points:] - centre
        for scale in BANDWIDTHS:
            value, logs, gradient = loss(chosen, (exact(left, scale), exact(right, scale)))
            for way in WAYS:
                for size in sizes:
                    found = []
                    for seed in range(seeds):
                        draw = torch.Generator().manual_seed(seed + 1)
                        # one set of directions serves both sides, so that equal sets have equal sums
                        states = draw.get_state()
                        sums = []
                        for reference in (left, right):
                            draw.set_state(states)
                            sums.append(MADE[way](reference, scale, size, draw))
                        other, other_logs, other_gradient = loss(chosen, (sums[0], sums[1]))
                        found.append(
                            {
                                "value": float(other),
                                "log_sum_error": float((other_logs - logs).abs().mean()),
                                "gradient_error": float((other_gradient - gradient).norm() / gradient.norm()),
                                "gradient_cosine": float(
                                    F.cosine_similarity(other_gradient.flatten(), gradient.flatten(), dim=0)
                                ),
                            }
                        )
                    means = {name: short(statistics.mean(each[name] for each in found)) for name in found[0]}
                    setting = {"sets": kind, "bandwidth": scale, "way": way, "size": size, "rows": rows}
                    print(json.dumps(setting | {"points": points, "exact": short(float(value))} | means), flush=True)


def cost(rows: int, points: int, size: int = 4096, scale: float = 0.2) -> None:
    """Processor seconds of the sums of one side: to make them, and of a step with them, forward and backward."""
    reference, _ = sets(BLOCK * 8, "clusters")
    reference = reference.repeat(-(-rows // len(reference)), 1)[:rows]
    for way in ("exact", *WAYS):
        started = time.process_time()
        draw = torch.Generator().manual_seed(1)
        sums = exact(reference, scale) if way == "exact" else MADE[way](reference, scale, size, draw)
        made = time.process_time() - started
        taken = []
        for _ in range(1 if way == "exact" else 3):
            z = reference[:points].clone().requires_grad_()
            started = time.process_time()
            torch.autograd.grad(sums(z).mean(), z)
            taken.append(time.process_time() - started)
        setting = {"way": way, "rows": rows, "points": points, "size": None if way == "exact" else size}
        print(json.dumps(setting | {"make_cpu_s": short(made), "step_cpu_s": short(min(taken))}), flush=True)


def short(value: float) -> float:
    return float(f"{value:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["error", "cost"])
    parser.add_argument("--rows", type=int, help="reference rows of a side")
    parser.add_argument("--points", type=int, default=1024)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps({"threads": torch.get_num_threads(), "load": os.getloadavg()[0], "torch": torch.__version__}))
    if given.what == "error":
        error(given.rows or 65_536, given.points, given.seeds, given.sizes)
    else:
        cost(given.rows or 1_000_000, given.points)


if __name__ == "__main__":
    main()
