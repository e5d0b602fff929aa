"""Embeddings of a batch larger than memory holds activations of, and the exact way back to what made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from setclip_cli.training.distributed import Group
    from setclip_cli.training.tower import Tower


@dataclass(frozen=True)
class Lot:
    """Rows that a step embeds together.

    Attributes:
        rows: (n,) int64, of all ranks.
        chunks: This rank's share, prepared, ``size`` rows each.
        view_seed: Set for a second view.
    """

    rows: Tensor
    chunks: list[Any]
    size: int
    view_seed: int | None


class Embedded:
    """Embeddings of a lot, cut off from what made them, and the way back.

    With one chunk the graph is kept. With several, a second pass makes it again, chunk by chunk: memory holds the
    activations of one chunk and the embeddings of all, and the gradient is the same (Gao et al. 2021,
    arXiv:2101.06983).

    Attributes:
        leaf: (n, d) float32 embeddings of all ranks' rows; the losses' gradient is taken here.
    """

    def __init__(self, tower: Tower, member: int, lot: Lot, group: Group) -> None:
        self.tower, self.member, self.lot, self.group = tower, member, lot, group
        with torch.set_grad_enabled(len(lot.chunks) == 1):
            parts = [self._embed(index) for index in range(len(lot.chunks))]
        self._graph = parts[0] if len(parts) == 1 else None
        nothing = tower.features.new_zeros(0, tower.dim)  # a rank may have no row of a small lot
        own = torch.cat([nothing, *(part.detach().float() for part in parts)])
        self.leaf = group.gather(own, len(lot.rows)).requires_grad_()

    def backward(self, gradient: Tensor) -> None:
        """Sends the gradient of this rank's rows back through the tower."""
        own = gradient[self.group.share(len(self.lot.rows))]
        if self._graph is not None:
            self._send(self._graph, own)
            return
        for index in range(len(self.lot.chunks)):
            start = index * self.lot.size
            self._send(self._embed(index), own[start : start + self.lot.size])

    def _send(self, embeddings: Tensor, gradient: Tensor) -> None:
        with self.tower.matmuls():
            torch.autograd.backward(embeddings, gradient.to(embeddings.dtype))

    def _embed(self, index: int) -> Tensor:
        seed = None if self.lot.view_seed is None else self.lot.view_seed + index
        return self.tower.embed(self.member, self.lot.chunks[index], dropout_seed=seed)
