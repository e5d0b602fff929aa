"""The transform of features that the heads, the graphs and the terms of the loss see."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDE = 4096  # columns above which fewer rows decide the axes: a table of columns by columns takes 8 p² bytes


class FeatureTransform(nn.Module):
    """L2-normalise, centre, project on principal axes, scale to a mean norm of 1: (n, p) -> (n, axes).

    It is fitted on an unlabelled pool. Its rows do not have unit length: the norm is the distance from the mean.
    """

    def __init__(self, features: int, axes: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.axes: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("axes", torch.zeros(features, axes))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def fit(cls, pool: Tensor, axes: int = 64) -> FeatureTransform:
        """Fits mean, principal axes and scale on a pool of (n, p) features.

        Args:
            pool: The unlabelled features of one modality.
            axes: Number of principal axes to keep; 0 keeps all, which is at most min(n, p).

        Raises:
            ValueError: an empty pool, or NaN or inf in it.
        """
        if pool.ndim != 2 or not len(pool) or not bool(torch.isfinite(pool).all()):
            raise ValueError(f"FeatureTransform needs finite (n, p) features, n > 0; got {tuple(pool.shape)}")
        # In place: a pool of 200,000 rows takes gigabytes in double precision.
        centred = pool.double().clone() if pool.dtype == torch.float64 else pool.double()
        centred /= centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
        mean = centred.mean(0)
        centred -= mean
        largest = min(len(pool), pool.shape[1])
        kept = _principal_axes(centred)[:, : min(axes or largest, largest)]
        # An axis has no direction of its own: its largest entry is made positive, so that equal pools give equal axes.
        kept = kept * torch.sign(kept.gather(0, kept.abs().argmax(0, keepdim=True)))
        norm = (centred @ kept).norm(dim=1).mean()
        transform = cls(pool.shape[1], kept.shape[1])
        transform.mean.copy_(mean)
        transform.axes.copy_(kept)
        transform.scale.copy_(1 / norm if norm > 1e-12 else torch.ones(()))
        return transform

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = (F.normalize(features.to(self.mean.dtype), dim=1) - self.mean) @ self.axes * self.scale
        return projected


def _principal_axes(centred: Tensor) -> Tensor:
    """(p, k) unit columns of (n, p) centred rows, those along which the rows vary most first."""
    rows, columns = centred.shape
    if columns <= _WIDE or rows >= columns:
        axes: Tensor = torch.linalg.eigh(centred.T @ centred)[1]
        return axes.flip(1)  # eigh is ascending
    values, vectors = (found.flip(-1) for found in torch.linalg.eigh(centred @ centred.T))
    varied = values > 1e-12 * values[:1].clamp_min(1e-300)
    varied[0] = True
    return F.normalize(centred.T @ vectors[:, varied], dim=0)
