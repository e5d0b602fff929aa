"""Of which rows a RUN is unsure: those from which the way to the other side and back ends among other things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.encoders import FeatureTransform

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.pools import Pools

AXES = 64  # principal axes of the frozen features by which the end of the way is compared with its start
NEAREST = 5  # rows at each step
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
    partners, back = _nearest(own, other, NEAREST), _nearest(other, own, NEAREST)
    found = torch.stack([_likeness(unit, back[partners[:, step]]) for step in range(partners.shape[1])]).mean(0)
    best = _likeness(unit, _nearest(unit, unit, NEAREST))
    return (1 - found.clamp_min(0) / best.clamp_min(1e-6)).clamp(0, 1)


def _likeness(unit: Tensor, rows: Tensor) -> Tensor:
    """(n,) mean cosine of each row with those that are listed for it."""
    return torch.stack([(unit * unit[rows[:, step]]).sum(1) for step in range(rows.shape[1])]).mean(0)


def _nearest(queries: Tensor, gallery: Tensor, count: int) -> Tensor:
    count = min(count, len(gallery))
    parts = torch.split(queries, max(1, BLOCK // len(gallery)))
    return torch.cat([(part @ gallery.T).topk(count, dim=1).indices for part in parts])
