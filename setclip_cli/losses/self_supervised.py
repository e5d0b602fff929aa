"""Agreement of two views of the same rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli import defaults
from setclip_cli.losses.kernels import check_rows


def self_supervised(
    first: Tensor, second: Tensor, *, temperature: float = defaults.SELF_SUPERVISED_TEMPERATURE
) -> Tensor:
    """NT-Xent over two views: among the 2n - 1 other rows, each should find its other view.

    L = mean_i -log [exp(z_i·z_i' / t) / Σ_{j != i} exp(z_i·z_j / t)] over all 2n rows, z_i' the other view of z_i

    Args:
        first: (n, d) L2-normalised embeddings of one view of n items.
        second: (n, d) L2-normalised embeddings of another view of the same items in the same order.
        temperature: t > 0.

    Returns:
        Scalar >= 0 in float32 (float64 for float64 inputs); 0 for one item.

    Raises:
        ValueError: shapes that differ, an empty set, NaN or inf, a temperature that is not positive.

    Source: Chen et al. 2020, SimCLR, arXiv:2002.05709.
    """
    check_rows("self_supervised", first=first, second=second)
    if len(first) != len(second) or temperature <= 0:
        raise ValueError(
            "self_supervised needs two views of the same items and a temperature above 0; "
            f"got {len(first)} and {len(second)} rows, temperature {temperature}"
        )
    views = torch.cat([first, second])
    views = views.to(torch.promote_types(views.dtype, torch.float32))
    logits = views @ views.T / temperature
    logits = logits.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)
    other_view = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(logits, other_view)
