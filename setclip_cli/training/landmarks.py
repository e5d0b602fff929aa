"""Large pools: their steps draw from all rows, and what compares rows with each other looks at some of them, landmarks.

Graphs, fits in closed form, transport and probabilities take time and memory that grow with the rows that they look at.
From some ten thousand unlabelled rows on, more of them change little (benchmarks/results.md). So of a large pool they
get as many rows as `train.landmarks` says, drawn by the seed, and the rows of the known pairs.

Source: landmarks in place of all rows of a graph, Liu et al. 2010, Large graph construction for scalable
    semi-supervised learning (ICML 27).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from setclip_cli.encoders.neighbours import Neighbours
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.features.on_disk import FeatureRows

NEIGHBOURS, TEMPERATURE = 15, 0.1  # of a row among the landmarks, as `encoders.PoolMap` has them


@dataclass(frozen=True)
class LargePool:
    """All rows of a large pool.

    Attributes:
        rows: Their features.
        landmarks: (k,) int64, ascending: the rows that stand for all of them.
        views: Features of augmented views of all rows, if training uses such views.
    """

    rows: FeatureRows
    landmarks: Tensor
    views: tuple[FeatureRows, ...] = ()


def is_large(rows: int, landmarks: int) -> bool:
    """Whether a pool has so many rows that landmarks stand for them: more than twice as many."""
    return rows > 2 * landmarks


def draw_landmarks(rows: int, known: Tensor, *, landmarks: int, seed: int, side: str) -> Tensor:
    """(k,) int64, ascending: so many of the rows, drawn by the seed, and the known ones."""
    drawn = torch.randperm(rows, generator=generator(seed, "landmarks", side))[:landmarks]
    chosen: Tensor = torch.unique(torch.cat([known, drawn]))
    return chosen


class NearLandmarks:
    """What is known of the landmarks, for any row: the weighted mean of its nearest landmarks."""

    def __init__(self, features: Tensor, coordinates: Tensor, weights: Tensor | None) -> None:
        """Takes what is known of the landmarks.

        Args:
            features: (k, p) transformed features of the landmarks.
            coordinates: (k, c) unit rows ≥ 0, see `methods.graph_teacher`.
            weights: (k,) how often each is drawn; None if all are drawn equally often.
        """
        self._finder, self._coordinates = Neighbours(features), coordinates
        self._weights = None if weights is None else weights.to(coordinates)

    def coordinates(self, features: Tensor) -> Tensor:
        """(n, c) unit rows: the roots of the mean squares, since the squares of a row are shares that sum to 1."""
        rows, shares = self._nearest(features)
        return torch.einsum("nk,nkc->nc", shares, self._coordinates[rows].square()).sqrt()

    def weights(self, features: Tensor) -> Tensor:
        """(n,) on the CPU: how often each row is drawn, if the landmarks have weights."""
        assert self._weights is not None
        rows, shares = self._nearest(features)
        return (shares * self._weights[rows]).sum(1).cpu()

    def _nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        rows, cosines = self._finder.nearest(features, NEIGHBOURS)
        return rows, torch.softmax(cosines / TEMPERATURE, dim=1)
