"""Closed-form maps beside the trained heads: each is right about other things, and together they beat either.

The trained heads are best with few pairs, regularised CCA with many, and the graph map at telling classes apart. Their
cosines are averaged: the embeddings stand side by side, scaled by the square roots of their shares.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from setclip_cli import baselines
from setclip_cli.encoders import Composed, Concatenated, Encoder, FeatureTransform, GraphMap

if TYPE_CHECKING:
    from torch import Tensor

FULL_AT = 70  # pairs


@dataclass(frozen=True)
class Companion:
    """A fitted pair of encoders and their share of the cosine, where the trained heads have 1."""

    left: Encoder
    right: Encoder
    share: float


def fit_companions(
    transforms: tuple[FeatureTransform, FeatureTransform],
    left: Tensor,
    right: Tensor,
    pairs: Tensor,
    *,
    graph: float,
    linear: float,
) -> list[Companion]:
    """Fits the companions that have a share.

    Args:
        transforms: Of the left and right features; the companions hold copies.
        left: (n, p) transformed features of the left pool.
        right: (m, q) transformed features of the right pool.
        pairs: (b, 2) int64, rows of the known pairs, b > 0.
        graph: Share of the graph map, centred on the pool, from ``FULL_AT`` pairs on and in proportion below, since
            maps fitted to pairs alone are only as good as those are many.
        linear: Likewise of regularised CCA.
    """
    found = []
    for method, share in (("asif-graph", graph), ("cca", linear)):
        if share > 0:
            maps = baselines.METHODS[method](left, right, pairs)
            of_left, of_right = (
                Composed(copy.deepcopy(transform).cpu(), _centred(encoder))
                for transform, encoder in zip(transforms, maps, strict=True)
            )
            found.append(Companion(of_left, of_right, share * min(1.0, len(pairs) / FULL_AT)))
    return found


def accompanied(trained: tuple[Encoder, Encoder], companions: list[Companion]) -> tuple[Encoder, Encoder]:
    """The trained encoders joined with the companions; themselves where there are none."""
    if not companions:
        return trained
    shares = [1.0, *(companion.share for companion in companions)]
    left = Concatenated([trained[0], *(companion.left for companion in companions)], shares)
    right = Concatenated([trained[1], *(companion.right for companion in companions)], shares)
    return left.eval(), right.eval()


def trained_part(encoder: Encoder) -> Encoder:
    """What `accompanied` joined the companions to, or the encoder itself."""
    if isinstance(encoder, Concatenated) and isinstance(first := encoder.encoders[0], Encoder):
        return first
    return encoder


def _centred(encoder: Encoder) -> Encoder:
    """Graph coordinates are all positive: without their mean, cosines tell rows apart better."""
    return encoder.centre() if isinstance(encoder, GraphMap) else encoder
