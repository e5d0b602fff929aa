"""The terms as the authors of Set-CLIP released them, kept as an oracle and for ``method = "set-clip-published"``.

Values agree with the released code (repository cauchy-max/Set-CLIP, commit cc575d7) to 1e-5. With few pairs on frozen
features these forms do worse than the stable ones, and ``sdd`` overflows float32 when the sets are tight and far apart,
because the density difference p - q is not computed in log space.

Source: Set-CLIP, arXiv:2406.05766.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.losses.kernels import check_rows
from setclip_cli.losses.self_supervised import self_supervised

TEMPERATURE = 0.05
BANDWIDTH = 0.5  # h of the density
MK_VARIANCES = (
    *(10.0**power for power in range(-6, 1)),
    5,
    10,
    15,
    20,
    25,
    30,
    35,
    *(10.0**power for power in range(2, 7)),
)


def sdd(x: Tensor, y: Tensor) -> Tensor:
    """(J(x; y) + J(y; x)) (1/R_x² + 1/R_y²), R² the sum over dimensions of (max - min)².

    Args:
        x: (n, d) with n >= 2.
        y: (m, d) with m >= 2.

    Returns:
        Scalar >= 0; inf or NaN where a density underflows. It grows with n: J is a sum over points.

    Raises:
        ValueError: fewer than two rows in a set, shapes that do not fit, NaN or inf.
    """
    check_rows("published.sdd", x=x, y=y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"published.sdd needs two rows in each set; got {len(x)} and {len(y)}")
    return (divergence(x, y) + divergence(y, x)) * (1 / _squared_range(x) + 1 / _squared_range(y))


def divergence(a: Tensor, b: Tensor) -> Tensor:
    """J(a; b) = Σ over x in a of (p - q)(log p - log q), p and q the densities of x under a and under b."""
    p, q = density(a, a), density(a, b)
    return ((p - q) * (p.log() - q.log())).sum()


def density(points: Tensor, reference: Tensor) -> Tensor:
    """(n,) f(x; D) = (1/16) Σ_j 3 exp(-‖x - d_j‖² / (4 h² V)) / (2π h²), V the total variance of D; not normalised."""
    variance = reference.var(dim=0).sum()
    squared = torch.cdist(points, reference, compute_mode="donot_use_mm_for_euclid_dist").square()
    kernel = torch.exp(-squared / (4 * BANDWIDTH**2 * variance))
    return 3 * kernel.sum(1) / (16 * 2 * math.pi * BANDWIDTH**2)


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Biased squared MMD with the one kernel exp(-‖a - b‖²): the discrepancy that the released training uses."""
    return _mmd(x, y, (0.5,))


def mk_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Biased squared MMD, the sum of 19 kernels exp(-‖a - b‖² / 2s), s from 1e-6 to 1e6."""
    return _mmd(x, y, MK_VARIANCES)


def clip(left: Tensor, right: Tensor, pairs: int) -> Tensor:
    """Symmetric InfoNCE whose queries are the first ``pairs`` rows and whose candidates are all rows of a batch.

    Args:
        left: (n, d), the rows of known pairs first.
        right: (n, d), the same layout: row i < pairs is the partner of left[i].
        pairs: How many rows are pairs, 1 <= pairs <= n.
    """
    check_rows("published.clip", left=left, right=right)
    if not 1 <= pairs <= min(len(left), len(right)):
        raise ValueError(f"published.clip needs 1 <= pairs <= rows; got {pairs} of {len(left)} and {len(right)}")
    partner = torch.arange(pairs, device=left.device)
    logits = left @ right.T / TEMPERATURE
    return (F.cross_entropy(logits[:pairs], partner) + F.cross_entropy(logits.T[:pairs], partner)) / 2


def nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """NT-Xent at the released temperature; row i of both is one item."""
    return self_supervised(first, second, temperature=TEMPERATURE)


def _mmd(x: Tensor, y: Tensor, variances: tuple[float, ...]) -> Tensor:
    check_rows("published.mmd", x=x, y=y)
    dtype, x, y = x.dtype, x.double(), y.double()  # 19 means of nearly 1 cancel: float32 keeps four digits

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        return torch.stack([torch.exp(-squared / (2 * variance)).mean() for variance in variances]).sum()

    return (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)).to(dtype)


def _squared_range(rows: Tensor) -> Tensor:
    return (rows.amax(0) - rows.amin(0)).square().sum()
