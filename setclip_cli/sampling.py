"""Which rows a step sees: a pure function of (seed, stream, step), so a resumed run needs no sampler state.

Every stream (each modality, the pairs, the views) has its own name and its own order, so row positions pair nothing.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A CPU generator that depends on the seed and on every part of the stream's name, and on nothing else."""
    digest = hashlib.sha256(repr((seed, *stream)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def sample(rows: int, batch: int, step: int, *, seed: int, stream: str, weights: Tensor | None = None) -> Tensor:
    """The row indices of one step: (min(batch, rows),) int64.

    The stream walks through one shuffled epoch after another, so every row comes up once in an epoch. A batch may span
    two epochs. With ``batch >= rows`` every step has every row.

    Args:
        rows: Number of rows to draw from, > 0.
        batch: Rows a step, > 0.
        step: 0-based.
        weights: (rows,) > 0, on the CPU: each step draws new rows, one after another in proportion to these weights,
            none twice. The closer ``batch`` is to ``rows``, the less the weights matter.

    Source: weighted draws without replacement by exponential keys, Efraimidis & Spirakis 2006 (Inf. Proc. Letters 97).
    """
    if rows <= 0 or batch <= 0:
        raise ValueError(f"sample needs rows > 0 and batch > 0; got rows={rows}, batch={batch}")
    if batch >= rows:
        return torch.arange(rows)
    if weights is not None:
        keys = torch.empty(rows).exponential_(generator=generator(seed, stream, "weighted", step)) / weights
        return keys.topk(batch, largest=False).indices
    start = step * batch
    parts, wanted = [], batch
    while wanted:
        epoch, offset = divmod(start, rows)
        part = _shuffled(rows, seed, stream, epoch)[offset : offset + wanted]
        parts.append(part)
        start += len(part)
        wanted -= len(part)
    return torch.cat(parts)


@lru_cache(maxsize=4)  # both sides and the pairs; an order of 5,000,000 rows takes 40 MB
def _shuffled(rows: int, seed: int, stream: str, epoch: int) -> Tensor:
    return torch.randperm(rows, generator=generator(seed, stream, epoch))
