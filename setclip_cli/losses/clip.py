"""Contrastive loss on the known pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli import defaults
from setclip_cli.losses.kernels import check_rows


def clip(
    left: Tensor,
    right: Tensor,
    *,
    temperature: float | Tensor = defaults.CLIP_TEMPERATURE,
    targets: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE: each row should find its partner among the rows of the other side.

    L = ½ [H(T, softmax(l rᵀ / t)) + H(Tᵀ, softmax(r lᵀ / t))], H the mean cross entropy of rows

    Args:
        left: (b, d) L2-normalised embeddings.
        right: (b, d) L2-normalised; row i is the partner of ``left[i]``. With ``targets``: any (c, d).
        temperature: t > 0, a number or a scalar tensor (learnable).
        targets: (b, c) non-negative, how much row j of ``right`` is a partner of row i of ``left``; rows and columns
            are scaled to sum 1, a row or column of zeros is left out. None for the identity.

    Returns:
        Scalar >= 0 in float32 (float64 for float64 inputs). With one pair it is 0: there is no other row to choose.

    Raises:
        ValueError: shapes that do not fit, an empty set, NaN or inf, a temperature or targets that are not valid.

    Sources: Radford et al. 2021, arXiv:2103.00020; several positives as in Khosla et al. 2020, arXiv:2004.11362.
    """
    check_rows("clip", left=left, right=right)
    sharpness = float(temperature.detach() if isinstance(temperature, Tensor) else temperature)
    if not sharpness > 0:
        raise ValueError(f"clip needs a temperature above 0; got {sharpness}")
    dtype = torch.promote_types(left.dtype, torch.float32)
    logits = left.to(dtype) @ right.to(dtype).T / temperature
    if targets is None:
        if len(left) != len(right):
            raise ValueError(
                f"clip needs as many rows left as right unless targets are given; got {len(left)} and {len(right)}"
            )
        partner = torch.arange(len(left), device=left.device)
        return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2
    if targets.shape != logits.shape or not bool((targets >= 0).all()) or not bool(targets.sum() > 0):
        raise ValueError(f"targets must be {tuple(logits.shape)}, none negative, not all 0; got {tuple(targets.shape)}")
    targets = targets.to(dtype)
    return (_cross_entropy(logits, targets) + _cross_entropy(logits.T, targets.T)) / 2


def shared_partners(left_ids: Tensor, right_ids: Tensor) -> Tensor:
    """(b, b) targets for b known pairs of which some share an item: several captions of one image, say.

    Entry (i, j) is 1 when the pairs i and j have the same left item or the same right item: then right j is a
    partner of left i as well as its own.
    """
    same = (left_ids[:, None] == left_ids) | (right_ids[:, None] == right_ids)
    return same.float()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    mass = targets.sum(1, keepdim=True)
    kept = mass.squeeze(1) > 0
    probabilities = targets[kept] / mass[kept]
    return -(probabilities * F.log_softmax(logits, dim=1)[kept]).sum(1).mean()
