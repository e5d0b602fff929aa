"""What stands beside the trained heads: each part is right about other things, and together they beat any.

The trained heads are best with few pairs, a map fitted to the pairs in closed form, regularised CCA, with many. Both
look at a row alone. The third part looks at where the row lies: the first two, averaged along the graph of the pool, so
that a row is told by what its neighbours have in common. Cosines are averaged: the embeddings stand side by side,
scaled by the square roots of their shares. Last, every embedding is drawn to where those of both sides are dense.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.encoders.encoders import Composed, Concatenated, Encoder, MeanShift, PoolMap
from setclip_cli.encoders.graph import carry
from setclip_cli.methods import closed_form
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from torch import Tensor

FULL_AT = 70  # pairs, at which both companions have their whole shares
POOL_ROWS = 20_000  # that a RUN keeps of each modality: bounds its size and the time that the graph takes
SHIFT_ROWS = 1_000  # of each modality that the mean shift goes by; 500 were as good as 5,000 (benchmarks/results.md)


def accompanied(
    trained: tuple[Composed, Composed],
    pools: tuple[Tensor, Tensor],
    pairs: Tensor,
    *,
    linear: float,
    diffused: float,
    shifted: float,
    seed: int,
) -> tuple[Encoder, Encoder]:
    """The trained encoders joined with their companions; themselves where there are none.

    Args:
        trained: Left and right encoder, each a transform and heads.
        pools: (n, p) and (m, q) *transformed* features of the left and right pool, on the CPU.
        pairs: (b, 2) int64, rows of the known pairs; b may be 0.
        linear: Share of regularised CCA, where the heads have 1: in full from ``FULL_AT`` pairs on and in proportion
            below, since a map fitted to pairs alone is only as good as those are many.
        diffused: Share of the two averaged along the graph of the pool, where both together have 1: in full up to
            ``FULL_AT`` pairs and with the root of ``FULL_AT`` over their number beyond, since the more pairs there are,
            the less there is to learn from neighbours.
        shifted: Share of the mean shift of an embedding, where the embedding has 1.
        seed: Of the rows that are kept of pools above ``POOL_ROWS`` and ``SHIFT_ROWS``.
    """
    parts: tuple[list[Encoder], list[Encoder]] = ([trained[0]], [trained[1]])
    shares = [1.0]
    if linear > 0 and len(pairs):
        maps = closed_form.METHODS["cca"](*pools, pairs)
        for side, encoder, of_side in zip(trained, maps, parts, strict=True):
            of_side.append(_after(side, encoder))
        shares.append(linear * min(1.0, len(pairs) / FULL_AT))
    if diffused > 0:
        for name, side, pool, of_side in zip(("left", "right"), trained, pools, parts, strict=True):
            rows = pool[_kept(len(pool), POOL_ROWS, seed, name)]
            of_side.append(_after(side, _carried(rows, of_side, shares)))
        shares.append(diffused * min(1.0, math.sqrt(FULL_AT / max(1, len(pairs)))) * sum(shares))
    joined: tuple[Encoder, Encoder] = trained
    if len(shares) > 1:
        joined = Concatenated(parts[0], shares).eval(), Concatenated(parts[1], shares).eval()
    if shifted > 0:
        known = [
            _embedded(pool[_kept(len(pool), SHIFT_ROWS, seed, f"{name}/shift")], of_side, shares)
            for name, pool, of_side in zip(("left", "right"), pools, parts, strict=True)
        ]
        joined = MeanShift(joined[0], *known, share=shifted).eval(), MeanShift(joined[1], *known, share=shifted).eval()
    return joined


def trained_part(encoder: Encoder) -> Encoder:
    """What `accompanied` joined the companions to, or the encoder itself."""
    if isinstance(encoder, MeanShift):
        encoder = encoder.encoder
    if isinstance(encoder, Concatenated) and isinstance(first := encoder.encoders[0], Encoder):
        return first
    return encoder


def _carried(rows: Tensor, parts: list[Encoder], shares: list[float]) -> PoolMap:
    """The joined encoders' embeddings of these rows, averaged along their graph, less their mean."""
    values = carry(rows, _embedded(rows, parts, shares))
    return PoolMap(rows, F.normalize(values - values.mean(0), dim=1))


@torch.no_grad()
def _embedded(rows: Tensor, parts: list[Encoder], shares: list[float]) -> Tensor:
    """Embeddings of transformed rows by the parts joined as they stand."""
    on_transformed = [part.encoder if isinstance(part, Composed) else part for part in parts]
    embeddings: Tensor = Concatenated(on_transformed, shares)(rows)
    return embeddings


def _after(trained: Composed, encoder: Encoder) -> Composed:
    """The encoder after the transform of the trained one: a copy, so that each part of a RUN is whole."""
    return Composed(copy.deepcopy(trained.transform), encoder)


def _kept(rows: int, at_most: int, seed: int, stream: str) -> Tensor:
    order = torch.randperm(rows, generator=generator(seed, "companions", stream))
    return order[:at_most].sort().values
