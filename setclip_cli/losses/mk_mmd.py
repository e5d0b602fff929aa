"""Multi-kernel maximum mean discrepancy between two unpaired sets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from setclip_cli.losses.kernels import check_rows, log_kernel_sum, median_bandwidth
from setclip_cli.losses.mutual import own_log_kernel_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

MEDIAN_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def mk_mmd(
    x: Tensor, y: Tensor, bandwidths: Sequence[float] | Tensor | None = None, *, unbiased: bool = False
) -> Tensor:
    """Squared maximum mean discrepancy, summed over kernels exp(-‖a - b‖² / s).

    MMD²(X, Y) = mean k(X, X) + mean k(Y, Y) - 2 mean k(X, Y)

    Biased (V-statistic) by default: the diagonal stays in, so the value is >= 0 up to rounding and n = 1 is legal.
    Kernels are summed, not averaged: k kernels scale the loss by up to k.

    Args:
        x: (n, d) embeddings of one modality, L2-normalised rows.
        y: (m, d) embeddings of the other. Row i of y has nothing to do with row i of x.
        bandwidths: s > 0; None for the median rule, the median squared distance times 1/4, 1/2, 1, 2 and 4.
        unbiased: Leave the diagonals out (U-statistic): mean 0 for two samples of one distribution, may be negative;
            needs n, m >= 2.

    Returns:
        Scalar in float32 (float64 for float64 inputs); biased: 0 when X and Y hold the same rows in any order.

    Raises:
        ValueError: shapes that do not fit, an empty set, NaN or inf, a bandwidth that is not positive.

    Sources: Gretton et al. 2012, JMLR 13; the multi-kernel term of Set-CLIP, arXiv:2406.05766.
    """
    check_rows("mk_mmd", x=x, y=y)
    if unbiased and min(len(x), len(y)) < 2:
        raise ValueError(f"mk_mmd(unbiased=True) needs two rows in each set; got {len(x)} and {len(y)}")
    if bandwidths is None:
        median = median_bandwidth(x, y)
        bandwidths = [factor * median for factor in MEDIAN_FACTORS]

    def mean_kernel(sums: Tensor, terms: int) -> Tensor:
        return (sums - math.log(terms)).exp().mean(0).sum()

    within_x, within_y = (
        mean_kernel(own_log_kernel_sum(rows, bandwidths, exclude_self=unbiased), len(rows) - unbiased)
        for rows in (x, y)
    )
    return within_x + within_y - 2 * mean_kernel(log_kernel_sum(x, y, bandwidths), len(y))
