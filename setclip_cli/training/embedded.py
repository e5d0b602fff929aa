"""Embeddings of a batch whose activations do not fit in memory at once, and the exact gradient of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from setclip_cli.training.batches import BatchPart
    from setclip_cli.training.distributed import Group
    from setclip_cli.training.tower import TrainingTower


class EmbeddedPart:
    """Embeddings of a part of a batch, cut off from the tower, and the way to send their gradient back.

    With one chunk the graph is kept. With several, a second forward pass makes it again, chunk by chunk: memory holds
    the activations of one chunk and the embeddings of all, and the gradient is the same. Source: Gao et al. 2021,
    arXiv:2101.06983.

    Attributes:
        rows: (n,) int64, of all ranks.
        leaf: (n, d) float32 embeddings of these rows; the gradient of the losses is taken here.
    """

    def __init__(self, tower: TrainingTower, member: int, part: BatchPart, group: Group) -> None:
        self.tower, self.member, self.part, self.group = tower, member, part, group
        self.rows = part.rows
        with torch.set_grad_enabled(len(part.chunks) == 1):
            chunks = [self._embed(index) for index in range(len(part.chunks))]
        self._graph = chunks[0] if len(chunks) == 1 else None
        nothing = tower.features.new_zeros(0, tower.dim)  # a rank may have no row of a small part
        own = torch.cat([nothing, *(chunk.detach().float() for chunk in chunks)])
        self.leaf = group.gather(own, len(part.rows)).requires_grad_()

    def backward(self, gradient: Tensor) -> None:
        """Sends the gradient of this rank's rows back through the tower."""
        own = gradient[self.group.share(len(self.rows))]
        if self._graph is not None:
            self._send(self._graph, own)
            return
        for index in range(len(self.part.chunks)):
            start = index * self.part.chunk_rows
            self._send(self._embed(index), own[start : start + self.part.chunk_rows])

    def _send(self, embeddings: Tensor, gradient: Tensor) -> None:
        with self.tower.matmuls():
            torch.autograd.backward(embeddings, gradient.to(embeddings.dtype))

    def _embed(self, index: int) -> Tensor:
        seed = None if self.part.view_seed is None else self.part.view_seed + index
        return self.tower.embed(self.member, self.part.chunks[index], dropout_seed=seed)
