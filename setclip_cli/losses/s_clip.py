"""Unpaired rows take the partners of the pairs that an optimal-transport plan assigns them to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli import defaults
from setclip_cli.losses.kernels import check_rows
from setclip_cli.losses.sinkhorn import sinkhorn

ITERATIONS = 50


def s_clip(
    embeddings: Tensor,
    partners: Tensor,
    features: Tensor,
    paired_features: Tensor,
    *,
    temperature: float = defaults.CLIP_TEMPERATURE,
    regularisation: float = defaults.S_CLIP_REGULARISATION,
) -> Tensor:
    """Cross entropy of unpaired rows against pseudo-labels over the pairs.

    L = H(Q by rows, softmax(e · partners / t)), Q the entropic transport plan of equal masses from the rows to
    the pairs' items of the same modality, at their cosine distance in the frozen features

    Args:
        embeddings: (n, d) L2-normalised embeddings of unpaired rows.
        partners: (b, d) L2-normalised embeddings of the pairs' items of the other modality.
        features: (n, p) frozen features of the unpaired rows.
        paired_features: (b, p) frozen features of the pairs' items of the same modality.
        temperature: t > 0.
        regularisation: Of the plan, > 0; cosine distance is its cost.

    Returns:
        Scalar >= 0 in float32 (float64 for float64 inputs); 0 with one pair, which is then the partner of every row.

    Raises:
        ValueError: shapes that do not fit, an empty set, NaN or inf, a temperature or regularisation not positive.

    Source: caption-level pseudo-labels of S-CLIP, Mo et al. 2023, arXiv:2305.14095; the keyword-level ones need a list
        of keywords and are not part of it.
    """
    check_rows("s_clip", embeddings=embeddings, partners=partners)
    check_rows("s_clip", features=features, paired_features=paired_features)
    fits = len(embeddings) == len(features) and len(partners) == len(paired_features)
    if not fits or min(temperature, regularisation) <= 0:
        raise ValueError(
            "s_clip needs features of every row, temperature and regularisation above 0; got "
            f"{len(embeddings)}, {len(partners)} rows, {len(features)}, {len(paired_features)} features, "
            f"temperature {temperature}, regularisation {regularisation}"
        )
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    embeddings, partners = embeddings.to(dtype), partners.to(dtype)
    with torch.no_grad():
        cosines = F.normalize(features.to(dtype), dim=1) @ F.normalize(paired_features.to(dtype), dim=1).T
        # transposed, so that the rows are scaled last: each row's masses are exact
        log_plan = sinkhorn((cosines.T - 1) / regularisation, ITERATIONS).T
        pseudo_labels = log_plan.softmax(1)
    logits = embeddings @ partners.T / temperature
    loss: Tensor = -(pseudo_labels * logits.log_softmax(1)).sum(1).mean()
    return loss
