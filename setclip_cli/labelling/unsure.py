"""Of which rows a RUN is unsure: those from which the way to the other side and back ends among other things."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.encoders import FeatureTransform

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.pools import Pools

AXES = 64  # principal axes of the frozen features by which the end of the way is compared with its start
NEAREST = 5  # rows at each step
ROWS = 20_000  # of each side among which they are looked for
BLOCK = 1 << 24  # similarities held at a time: 64 MiB


def unsureness(pools: Pools, side: int) -> Tensor | None:
    """(n,) of `return_trips` for each row of a side; None without a RUN."""
    own, other = pools.sides[side], pools.sides[1 - side]
    if own.embeddings is None or other.embeddings is None:
        return None
    return return_trips(own.embeddings, other.embeddings, own.features)


def return_trips(own: Tensor, other: Tensor, features: Tensor) -> Tensor:
    """(n,) in [0, 1], how unsure an alignment is of each row of one side.

    0: the rows of the side that are nearest to its partners look as much like it, by the frozen features, as the rows
    that are nearest to it do. 1: they look no more like it than any rows.

    Args:
        own: (n, d) unit embeddings of the side.
        other: (m, d) of the other side.
        features: (n, p) frozen features of the side.
    """
    unit = F.normalize(FeatureTransform.fit(features, AXES)(features), dim=1)
    here, there = _spread(len(own)), _spread(len(other))
    partners, back = _nearest(own, other[there]), _nearest(other[there], own[here])
    ends = unit[here]
    found = torch.stack([_likeness(unit, ends[back[partners[:, step]]]) for step in range(partners.shape[1])]).mean(0)
    best = _likeness(unit, ends[_nearest(unit, ends)])
    return (1 - found.clamp_min(0) / best.clamp_min(1e-6)).clamp(0, 1)


def _likeness(unit: Tensor, others: Tensor) -> Tensor:
    """(n,) mean cosine of each of (n, p) unit rows with the (n, k, p) listed for it."""
    return torch.einsum("np,nkp->n", unit, others) / others.shape[1]


def _nearest(queries: Tensor, gallery: Tensor) -> Tensor:
    """(n, k) the nearest rows of the gallery."""
    count = min(NEAREST, len(gallery))
    parts = torch.split(queries, max(1, BLOCK // len(gallery)))
    return torch.cat([(part @ gallery.T).topk(count, dim=1).indices for part in parts])


def _spread(rows: int) -> Tensor:
    """At most ``ROWS`` row numbers, evenly spaced."""
    return torch.arange(0, rows, math.ceil(rows / ROWS))
