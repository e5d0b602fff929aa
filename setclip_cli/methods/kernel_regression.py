"""Kernel regression of each side on the other: what the known pairs say where the sides do not vary together linearly.

Each embedding has two halves. One half is the row itself, the other is what the pairs let expect of its partner. So the
cosine of two items is the mean of how well the right one is what the left one lets expect, and the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.encoders import Concatenated, Encoder, KernelMap, LinearMap
from setclip_cli.methods.transport import within
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from torch import Tensor

WIDTH = 0.3  # of the kernel
RIDGE = 0.5  # of the regression
WHITENING = 0.25  # power of the covariance that the targets are divided by; 0.5 would be whole
FLOOR = 0.1  # of the mean eigenvalue, against axes that hardly vary
ANCHORS = 8_000  # known items of a side that the kernel compares with: bounds time and memory


def fit_kernel_regression(
    x: Tensor, y: Tensor, pairs: Tensor, *, seed: int, whitened: tuple[LinearMap, LinearMap] | None = None
) -> tuple[Encoder, Encoder]:
    """Kernel ridge regression from left to right and from right to left.

    f(q) = Σ_j k(q, x_j) c_j, c = (K + ridge I)⁻¹ Y, k(q, x_j) = exp((cos(q, x_j) - 1) / width)
    left: [unit f(x), unit x'], right: [unit y', unit g(y)]; x' and y' are partly whitened by their pools

    Args:
        x: (n, p) transformed features of the left pool.
        y: (m, q) of the right one.
        pairs: (b, 2) int64, rows of the known pairs. Pairs of one item become one row with the mean of its partners.
        seed: Decides which items stay when there are more than ``ANCHORS``.
        whitened: `part_whitened` of both pools, if it is known already.

    Returns:
        An encoder for each side, of p + q dimensions.

    Sources: kernel ridge regression, Saunders et al. 1998 (ICML 15); regression to the other modality as a score in
        both directions, Socher et al. 2013, arXiv:1301.3666, here in closed form.
    """
    own_x, own_y = whitened or (part_whitened(x), part_whitened(y))
    expected_y = _regression(x, own_y.project(y), pairs, seed)
    expected_x = _regression(y, own_x.project(x), pairs.flip(1), seed)
    return Concatenated([expected_y, own_x]), Concatenated([own_y, expected_x])


def _regression(rows: Tensor, targets: Tensor, pairs: Tensor, seed: int) -> KernelMap:
    """Of the targets of the second column on the rows of the first."""
    items, of_item, counts = torch.unique(pairs[:, 0], return_inverse=True, return_counts=True)
    sums = torch.zeros(len(items), targets.shape[1]).index_add_(0, of_item, targets[pairs[:, 1]])
    kept = torch.randperm(len(items), generator=generator(seed, "kernel"))[:ANCHORS].sort().values
    anchors, means = F.normalize(rows[items[kept]], dim=1), (sums / counts[:, None])[kept]
    kernel = KernelMap.similarities(anchors, anchors, WIDTH)
    # An item with more partners has a mean of less noise.
    kernel.diagonal().add_(RIDGE / counts[kept])
    coefficients = torch.cholesky_solve(means, torch.linalg.cholesky(kernel))
    return KernelMap(anchors, coefficients, WIDTH)


def part_whitened(pool: Tensor) -> LinearMap:
    """The rows of a pool divided by their covariance to the power ``WHITENING``."""
    values, vectors = torch.linalg.eigh(within(pool))
    scale = (values.clamp_min(0) + FLOOR * values.mean()).clamp_min(1e-12) ** -WHITENING
    return LinearMap(vectors * scale @ vectors.T, pool.mean(0))
