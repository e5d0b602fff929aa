"""The transform of features that the heads, the graphs and the terms of the loss see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
        kept = _kept(_principal_axes(centred), len(pool), axes)
        return cls._of(mean, kept, (centred @ kept).norm(dim=1).mean())

    @classmethod
    def fit_blocks(cls, blocks: Callable[[], Iterable[Tensor]], axes: int = 64) -> FeatureTransform:
        """`fit` for a pool that is larger than memory, from all of its rows.

        The covariance is the mean of the rows' products less the product of their mean, in double precision. Rows have
        length 1, so this loses no more than the last few of 16 digits. Memory is that of a block and of two tables of
        p by p.

        Args:
            blocks: Gives the (n, p) features from the start, a block of rows at a time. It is called twice.
            axes: As `fit` takes it; the pool needs more rows than columns.

        Raises:
            ValueError: an empty pool, or NaN or inf in it.
        """
        count, total, products = 0, torch.zeros(0), torch.zeros(0, 0)
        for block in blocks():
            unit = _unit(block)
            if not count:
                total, products = unit.new_zeros(unit.shape[1]), unit.new_zeros(unit.shape[1], unit.shape[1])
            count += len(unit)
            total += unit.sum(0)
            products.addmm_(unit.T, unit)
        if not count or not bool(torch.isfinite(total).all()):
            raise ValueError(f"FeatureTransform needs finite (n, p) features, n > 0; got {count} rows")
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        kept = _kept(torch.linalg.eigh(covariance)[1].flip(1), count, axes)
        norms = sum(float(((_unit(block) - mean) @ kept).norm(dim=1).sum()) for block in blocks())
        return cls._of(mean, kept, torch.tensor(norms / count, dtype=torch.float64))

    @classmethod
    def _of(cls, mean: Tensor, axes: Tensor, norm: Tensor) -> FeatureTransform:
        transform = cls(*axes.shape)
        transform.mean.copy_(mean)
        transform.axes.copy_(axes)
        transform.scale.copy_(1 / norm if norm > 1e-12 else torch.ones(()))
        return transform

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = (F.normalize(features.to(self.mean.dtype), dim=1) - self.mean) @ self.axes * self.scale
        return projected


def _unit(rows: Tensor) -> Tensor:
    """The rows in double precision, of length 1."""
    rows = rows.double()
    scaled: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return scaled


def _kept(found: Tensor, rows: int, axes: int) -> Tensor:
    """The first of these axes, as many as are asked for and as a pool of so many rows can have.

    An axis has no direction of its own: its largest entry is made positive, so that equal pools give equal axes.
    """
    largest = min(rows, len(found))
    kept = found[:, : min(axes or largest, largest)]
    turned: Tensor = kept * torch.sign(kept.gather(0, kept.abs().argmax(0, keepdim=True)))
    return turned


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
