"""Encoders that are combined with the trained heads: each is right about other things, and together they are best.

The trained heads are best with few pairs. A map that is fitted to the pairs in closed form, regularised CCA, is best
with many. Both look at a row alone. The third part also looks at the row's neighbours: it averages the first two along
the graph of the pool. The cosine of two rows is the weighted mean of the parts' cosines. Then the mean shift draws
every embedding to where those of both sides are dense. Last, if a recipe asks for them, come the maps of method
transport (`partners`): they find the one partner of an item.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.encoders import Composed, Concatenated, Encoder, MeanShift, PoolMap
from setclip_cli.encoders.graph import smooth
from setclip_cli.methods import closed_form
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from torch import Tensor

FULL_SHARE_AT_PAIRS = 70  # at this many pairs both extra encoders have their whole shares
POOL_ROWS = 20_000  # rows of each modality that a RUN keeps: bounds its size and the time that the graph takes
SHIFT_ROWS = 1_000  # rows of each modality that the mean shift uses; 500 were as good as 5,000 (benchmarks/results.md)


def with_extra_encoders(
    trained: tuple[Composed, Composed],
    pools: tuple[Tensor, Tensor],
    pairs: Tensor,
    *,
    linear: float,
    diffused: float,
    shifted: float,
    seed: int,
) -> tuple[Encoder, Encoder]:
    """The trained encoders combined with the extra ones; unchanged if there are none.

    Args:
        trained: Left and right encoder, each a transform and heads.
        pools: (n, p) and (m, q) *transformed* features of the left and right pool, on the CPU.
        pairs: (b, 2) int64, rows of the known pairs; b may be 0.
        linear: Share of regularised CCA; the heads have 1. Full from ``FULL_SHARE_AT_PAIRS`` pairs on and in proportion
            below, since a map that is fitted to pairs alone is only as good as there are many.
        diffused: Share of the two averaged along the graph of the pool; both together have 1. Full up to
            ``FULL_SHARE_AT_PAIRS`` pairs. Beyond, times the root of ``FULL_SHARE_AT_PAIRS`` over the pairs, since the
            more pairs there are, the less there is to learn from neighbours.
        shifted: Share of the mean shift of an embedding; the embedding has 1.
        seed: Decides which rows of pools above ``POOL_ROWS`` and ``SHIFT_ROWS`` are kept.
    """
    parts: tuple[list[Encoder], list[Encoder]] = ([trained[0]], [trained[1]])
    shares = [1.0]
    if linear > 0 and min(len(side.unique()) for side in pairs.T) > 1:  # a map that is fitted to one pair is zero
        maps = closed_form.METHODS["cca"](*pools, pairs)
        for side, encoder, of_side in zip(trained, maps, parts, strict=True):
            of_side.append(_on_same_transform(side, encoder))
        shares.append(linear * min(1.0, len(pairs) / FULL_SHARE_AT_PAIRS))
    if diffused > 0:
        for name, side, pool, of_side in zip(("left", "right"), trained, pools, parts, strict=True):
            rows = pool[_drawn_rows(len(pool), POOL_ROWS, seed, name)]
            of_side.append(_on_same_transform(side, _smoothed(rows, of_side, shares)))
        shares.append(diffused * min(1.0, math.sqrt(FULL_SHARE_AT_PAIRS / max(1, len(pairs)))) * sum(shares))
    joined: tuple[Encoder, Encoder] = trained
    if len(shares) > 1:
        joined = Concatenated(parts[0], shares).eval(), Concatenated(parts[1], shares).eval()
    if shifted > 0:
        known = [
            _embedded(pool[_drawn_rows(len(pool), SHIFT_ROWS, seed, f"{name}/shift")], of_side, shares)
            for name, pool, of_side in zip(("left", "right"), pools, parts, strict=True)
        ]
        joined = MeanShift(joined[0], *known, share=shifted).eval(), MeanShift(joined[1], *known, share=shifted).eval()
    return joined


def without_extra_encoders(encoder: Encoder) -> Encoder:
    """The trained encoder that the extra ones were combined with; itself if there are none."""
    while isinstance(encoder, (MeanShift, Concatenated)):
        inner = encoder.encoder if isinstance(encoder, MeanShift) else encoder.encoders[0]
        assert isinstance(inner, Encoder)
        encoder = inner
    return encoder


def _smoothed(rows: Tensor, parts: list[Encoder], shares: list[float]) -> PoolMap:
    """The embeddings of these rows by the combined parts, averaged along their graph, less their mean."""
    values = smooth(rows, _embedded(rows, parts, shares))
    return PoolMap(rows, F.normalize(values - values.mean(0), dim=1))


@torch.no_grad()
def _embedded(rows: Tensor, parts: list[Encoder], shares: list[float]) -> Tensor:
    """Embeddings of transformed rows by the combined parts."""
    on_transformed = [part.encoder if isinstance(part, Composed) else part for part in parts]
    embeddings: Tensor = Concatenated(on_transformed, shares)(rows)
    return embeddings


def _on_same_transform(trained: Composed, encoder: Encoder) -> Composed:
    """The encoder behind a copy of the trained one's transform, so that each part of a RUN is complete."""
    return Composed(copy.deepcopy(trained.transform), encoder)


def _drawn_rows(rows: int, at_most: int, seed: int, stream: str) -> Tensor:
    order = torch.randperm(rows, generator=generator(seed, "companions", stream))  # the older name: it decides the draw
    return order[:at_most].sort().values
