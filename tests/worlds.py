"""Pools whose true partners are known: row i of both sides is one item. The last ``SCORED`` rows are for scoring."""

from __future__ import annotations

import torch
from torch import Tensor

SCORED = 200
NOISE = 0.8


def linear_world(rows: int = 1000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Row i of both sides is one item: two noisy linear views of 30 factors of unequal size."""
    draw = torch.Generator().manual_seed(seed)
    factors = torch.randn(rows, 30, generator=draw) * torch.linspace(1.5, 0.5, 30)
    views = [torch.linalg.qr(torch.randn(width, 30, generator=draw))[0] for width in (60, 50)]
    left, right = (factors @ view.T + NOISE * torch.randn(rows, len(view), generator=draw) for view in views)
    return left, right


def curved_world(rows: int = 700, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The right side depends on the left one by squares and products, so that no linear map sees it."""
    draw = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, 3, generator=draw)
    curved = torch.stack([left[:, i] * left[:, j] for i in range(3) for j in range(i, 3)], dim=1)
    right = curved @ torch.linalg.qr(torch.randn(20, 6, generator=draw))[0].T
    return left, right + 0.05 * torch.randn(right.shape, generator=draw)


def pools(left: Tensor, right: Tensor, known: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that are not scored, the right ones in an order of their own, and the first ``known`` as pairs."""
    rows = len(left) - SCORED
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    return left[:rows], right[order], torch.stack([torch.arange(known), order.argsort()[:known]], dim=1)
