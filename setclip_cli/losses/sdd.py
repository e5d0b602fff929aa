"""Semantic density distribution: two sets should be dense in the same places."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from setclip_cli.losses.kernels import check_rows, log_kernel_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

BANDWIDTHS = (0.2,)  # on unit vectors; anything from 0.05 to 0.4 did as well, smaller adaptive ones collapsed


def sdd(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | Tensor = BANDWIDTHS,
    *,
    leave_one_out: bool = False,
    x_bank: Tensor | None = None,
    y_bank: Tensor | None = None,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
) -> Tensor:
    """Stable semantic density distribution loss between two unpaired sets, in log space.

    SDD(X, Y) = mean_x [log p_X(x) - log p_Y(x)] + mean_y [log p_Y(y) - log p_X(y)]
    log p_D(z) = log Σ_j exp(-‖z - d_j‖² / s) - log |D|

    A symmetric Kullback-Leibler divergence of two kernel density estimates, read at the points themselves; with several
    bandwidths, its mean over them. By default a point counts itself in its own density: the value is then 0 for equal
    sets, and each self density is too high by at least log(1 + (e^{self}/Σ others)), a bias that falls with n.
    ``leave_one_out`` removes the bias, so the scale per point is the same at every n, and equal sets give a value near
    but not at 0.

    Args:
        x: (n, d) embeddings of one modality, L2-normalised rows; float16 and bfloat16 are computed in float32.
        y: (m, d) embeddings of the other. Row i of y has nothing to do with row i of x.
        bandwidths: s > 0, for unit rows.
        leave_one_out: A point does not count itself; needs n, m >= 2.
        x_bank, y_bank: (·, d) further rows of each density, without gradient: a queue of earlier batches.
        x_weights, y_weights: (n,), (m,) non-negative weights of the points, for unequal class mixes; scaled to sum 1.
            Bank rows weigh as the mean point does.

    Returns:
        Scalar in float32 (float64 for float64 inputs), finite for every finite input; not bounded below by 0 with
        leave-one-out, bank or weights.

    Raises:
        ValueError: shapes that do not fit, an empty set, NaN or inf, a bandwidth or weight that is not valid.

    Sources: semantic density distribution of Set-CLIP, arXiv:2406.05766; written as a log ratio here, where the paper
        weighs it by the density difference (``published.sdd``).
    """
    over_x, over_y = log_density_ratios(
        x,
        y,
        bandwidths,
        leave_one_out=leave_one_out,
        x_bank=x_bank,
        y_bank=y_bank,
        x_weights=x_weights,
        y_weights=y_weights,
    )
    return _mean(over_x.mean(1), x_weights) + _mean(over_y.mean(1), y_weights)


def log_density_ratios(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | Tensor = BANDWIDTHS,
    *,
    leave_one_out: bool = False,
    x_bank: Tensor | None = None,
    y_bank: Tensor | None = None,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(n, k) log p_X(x) - log p_Y(x) and (m, k) log p_Y(y) - log p_X(y); the arguments are those of ``sdd``."""
    check_rows("sdd", x=x, y=y)
    if leave_one_out and min(len(x), len(y)) < 2:
        raise ValueError(f"sdd(leave_one_out=True) needs two rows in each set; got {len(x)} and {len(y)}")
    x_set, x_log = _reference("x", x, x_bank, x_weights)
    y_set, y_log = _reference("y", y, y_bank, y_weights)

    def own(points: Tensor, reference: Tensor, log_weights: Tensor | None) -> Tensor:
        sums = log_kernel_sum(points, reference, bandwidths, exclude_self=leave_one_out, log_weights=log_weights)
        if not leave_one_out:
            return sums - _log_total(reference, log_weights)
        if log_weights is None:
            return sums - math.log(len(reference) - 1)
        others = log_weights.exp().sum() - log_weights[: len(points)].exp()
        return sums - others.clamp_min(torch.finfo(sums.dtype).tiny).log()[:, None]

    def other(points: Tensor, reference: Tensor, log_weights: Tensor | None) -> Tensor:
        return log_kernel_sum(points, reference, bandwidths, log_weights=log_weights) - _log_total(
            reference, log_weights
        )

    return own(x, x_set, x_log) - other(x, y_set, y_log), own(y, y_set, y_log) - other(y, x_set, x_log)


def _reference(name: str, points: Tensor, bank: Tensor | None, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The rows of a density and their log weights (None for equal ones)."""
    rows = points if bank is None or not len(bank) else torch.cat([points, bank.detach().to(points.dtype)])
    if weights is None:
        return rows, None
    if weights.shape != (len(points),) or not bool((weights >= 0).all()) or not bool(weights.sum() > 0):
        raise ValueError(
            f"{name}_weights must be ({len(points)},), none negative, not all 0; got {tuple(weights.shape)}"
        )
    scaled = weights.detach() * (len(points) / weights.sum())
    if not bool(torch.isfinite(scaled).all()):
        raise ValueError(f"{name}_weights hold NaN or inf")
    log_weights = torch.cat([scaled, scaled.new_ones(len(rows) - len(points))]).log()
    return rows, log_weights.float() if points.dtype != torch.float64 else log_weights.double()


def _log_total(reference: Tensor, log_weights: Tensor | None) -> Tensor | float:
    return math.log(len(reference)) if log_weights is None else torch.logsumexp(log_weights, 0)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (values * (weights / weights.sum()).to(values.dtype)).sum()
