"""Two pools whose truth is known: the same clusters, seen through two linear maps."""

from __future__ import annotations

import torch
from torch import Tensor


def pools(clusters: int = 4, left_rows: int = 80, right_rows: int = 120, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two pools of the same clusters seen through different linear maps; row i is of cluster i % clusters."""
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(clusters, 8, generator=draw)
    maps = (
        torch.linalg.qr(torch.randn(12, 8, generator=draw))[0].T,
        torch.linalg.qr(torch.randn(9, 8, generator=draw))[0].T,
    )
    left, right = (
        (centres[torch.arange(rows) % clusters] + torch.randn(rows, 8, generator=draw)) @ mapping
        for rows, mapping in zip((left_rows, right_rows), maps, strict=True)
    )
    return left, right
