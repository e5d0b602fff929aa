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


def sdd(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | Tensor = (defaults.SDD_BANDWIDTH,),
    *,
    leave_one_out: bool = False,
    x_bank: Tensor | None = None,
    y_bank: Tensor | None = None,
) -> Tensor:
    """Stable semantic density distribution loss between two unpaired sets, in log space.

    SDD(X, Y) = mean_x [log p_X(x) - log p_Y(x)] + mean_y [log p_Y(y) - log p_X(y)]
    log p_D(z) = log Σ_j exp(-‖z - d_j‖² / s) - log |D|

    A symmetric Kullback-Leibler divergence of two kernel density estimates, taken at the points themselves. Several
    bandwidths give the mean over them. By default a point counts itself in its own density: equal sets then give 0, and
    each self density is too high by log(1 + (e^{self}/Σ others)), a bias that falls with n. ``leave_one_out`` removes
    the bias: the scale per point is the same at every n, and equal sets give a value near 0 but not 0.

    Args:
        x: (n, d) embeddings of one modality, L2-normalised rows; float16 and bfloat16 are computed in float32.
        y: (m, d) embeddings of the other. Row i of y has nothing to do with row i of x.
        bandwidths: s > 0, for unit rows.
        leave_one_out: A point does not count itself; needs n, m >= 2.
        x_bank, y_bank: (·, d) further rows of each density, without gradient, such as a queue of earlier batches.

    Returns:
        Scalar in float32 (float64 for float64 inputs), finite for every finite input; not bounded below by 0 with
        leave-one-out or a bank.

    Raises:
        ValueError: shapes that do not fit, an empty set, NaN or inf, a bandwidth that is not positive.

    Sources: semantic density distribution of Set-CLIP, arXiv:2406.05766; here a log ratio; the paper
        weighs it by the density difference (``published.sdd``).
    """
    over_x, over_y = log_density_ratios(x, y, bandwidths, leave_one_out=leave_one_out, x_bank=x_bank, y_bank=y_bank)
    return over_x.mean() + over_y.mean()


def log_density_ratios(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | Tensor = (defaults.SDD_BANDWIDTH,),
    *,
    leave_one_out: bool = False,
    x_bank: Tensor | None = None,
    y_bank: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(n, k) log p_X(x) - log p_Y(x) and (m, k) log p_Y(y) - log p_X(y); the arguments are those of ``sdd``."""
    check_rows("sdd", x=x, y=y)
    if leave_one_out and min(len(x), len(y)) < 2:
        raise ValueError(f"sdd(leave_one_out=True) needs two rows in each set; got {len(x)} and {len(y)}")
    x_own, y_own = (own_log_kernel_sum(points, bandwidths, exclude_self=leave_one_out) for points in (x, y))
    x_other, y_other = mutual_log_kernel_sums(x, y, bandwidths)
    if x_bank is not None and len(x_bank):
        x_own, y_other = (_joined(sums, z, x_bank, bandwidths) for sums, z in ((x_own, x), (y_other, y)))
    if y_bank is not None and len(y_bank):
        y_own, x_other = (_joined(sums, z, y_bank, bandwidths) for sums, z in ((y_own, y), (x_other, x)))
    x_rows, y_rows = (len(z) + (0 if bank is None else len(bank)) for z, bank in ((x, x_bank), (y, y_bank)))
    over_x = (x_own - math.log(x_rows - leave_one_out)) - (x_other - math.log(y_rows))
    over_y = (y_own - math.log(y_rows - leave_one_out)) - (y_other - math.log(x_rows))
    return over_x, over_y


def _joined(sums: Tensor, points: Tensor, bank: Tensor, bandwidths: Sequence[float] | Tensor) -> Tensor:
    """Log kernel sums with those over a bank added, without gradient into the bank."""
    return torch.logaddexp(sums, log_kernel_sum(points, bank.detach().to(points.dtype), bandwidths))
