"""Neighbours in the frozen features should stay neighbours in the embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli import defaults
from setclip_cli.losses.kernels import check_rows


def neighbourhood(
    features: Tensor,
    embeddings: Tensor,
    *,
    temperature: float = defaults.NEIGHBOURHOOD_TEMPERATURE,
    embedding_temperature: float = defaults.NEIGHBOURHOOD_TEMPERATURE,
) -> Tensor:
    """Cross entropy of the soft neighbours of each row in the features against those in the embeddings.

    L = -mean_i Σ_{j != i} softmax_j(cos(f_i, f_j) / t) log softmax_j(u_i·u_j / t')

    Its gradient is 0 when both neighbour distributions agree; the value is then their entropy, not 0.

    Args:
        features: (n, p) frozen features of a batch, of any length; no gradient flows into them.
        embeddings: (n, d) L2-normalised embeddings of the same rows.
        temperature: t > 0 among the features.
        embedding_temperature: t' > 0 among the embeddings.

    Returns:
        Scalar >= 0 in float32 (float64 for float64 embeddings); 0 for n <= 2, where there is at most one neighbour.

    Raises:
        ValueError: different numbers of rows, an empty set, NaN or inf, a temperature that is not positive.

    Sources: stochastic neighbour embedding, Hinton & Roweis 2002 (NeurIPS 15), with cosine similarities.
    """
    check_rows("neighbourhood", features=features)
    check_rows("neighbourhood", embeddings=embeddings)
    if len(features) != len(embeddings) or min(temperature, embedding_temperature) <= 0:
        raise ValueError(
            "neighbourhood needs features and embeddings of the same rows and temperatures above 0; got "
            f"{len(features)} and {len(embeddings)} rows, temperatures {temperature} and {embedding_temperature}"
        )
    if len(features) == 1:
        return embeddings.sum() * 0.0
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    unit, embeddings = F.normalize(features.detach().to(dtype), dim=1), embeddings.to(dtype)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    wanted = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf).softmax(1)
    # filled after the softmax: 0 · log 0 of the diagonal would be NaN
    found = (embeddings @ embeddings.T / embedding_temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    return -(wanted * found.masked_fill(itself, 0.0)).sum(1).mean()
