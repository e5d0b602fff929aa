"""Semantic density distribution: two sets should be dense in the same places."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from setclip_cli import defaults
from setclip_cli.losses.kernels import check_rows, log_kernel_sum
from setclip_cli.losses.mutual import mutual_log_kernel_sums, own_log_kernel_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

BANDWIDTHS = (defaults.SDD_BANDWIDTH,)


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
    x_log, y_log = _log_weights("x", x, x_weights), _log_weights("y", y, y_weights)
    x_own, y_own = (
        own_log_kernel_sum(points, bandwidths, exclude_self=leave_one_out, log_weights=log_weights)
        for points, log_weights in ((x, x_log), (y, y_log))
    )
    x_other, y_other = mutual_log_kernel_sums(x, y, bandwidths, x_log_weights=x_log, y_log_weights=y_log)
    x_more, y_more = (0 if bank is None else len(bank) for bank in (x_bank, y_bank))
    if x_bank is not None and x_more:
        x_own, y_other = (_joined(sums, z, x_bank, bandwidths) for sums, z in ((x_own, x), (y_other, y)))
    if y_bank is not None and y_more:
        y_own, x_other = (_joined(sums, z, y_bank, bandwidths) for sums, z in ((y_own, y), (x_other, x)))
    x_all, y_all = math.log(len(x) + x_more), math.log(len(y) + y_more)
    x_others = _log_total_of_others(x_log, len(x), x_more) if leave_one_out else x_all
    y_others = _log_total_of_others(y_log, len(y), y_more) if leave_one_out else y_all
    return (x_own - x_others) - (x_other - y_all), (y_own - y_others) - (y_other - x_all)


def _log_weights(name: str, points: Tensor, weights: Tensor | None) -> Tensor | None:
    """Log weights of mean weight 1; None for equal ones."""
    if weights is None:
        return None
    if weights.shape != (len(points),) or not bool((weights >= 0).all()) or not bool(weights.sum() > 0):
        raise ValueError(
            f"{name}_weights must be ({len(points)},), none negative, not all 0; got {tuple(weights.shape)}"
        )
    scaled = weights.detach() * (len(points) / weights.sum())
    if not bool(torch.isfinite(scaled).all()):
        raise ValueError(f"{name}_weights hold NaN or inf")
    return scaled.to(torch.promote_types(points.dtype, torch.float32)).log()


def _joined(sums: Tensor, points: Tensor, bank: Tensor, bandwidths: Sequence[float] | Tensor) -> Tensor:
    """Log kernel sums with those over a bank added, without gradient into it."""
    return torch.logaddexp(sums, log_kernel_sum(points, bank.detach().to(points.dtype), bandwidths))


def _log_total_of_others(log_weights: Tensor | None, points: int, more: int) -> Tensor | float:
    """Log of the weight that a density has without the point itself."""
    if log_weights is None:
        return math.log(points + more - 1)
    others = points + more - log_weights.exp()
    return others.clamp_min(torch.finfo(others.dtype).tiny).log()[:, None]


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (values * (weights / weights.sum()).to(values.dtype)).sum()
