"""The embeddings of two unpaired batches should match as their shared coordinates do."""

from __future__ import annotations

import torch
from torch import Tensor

from setclip_cli import defaults
from setclip_cli.losses.kernels import check_rows
from setclip_cli.losses.sinkhorn import sinkhorn

ITERATIONS = 15


def teacher(
    left: Tensor,
    right: Tensor,
    left_coordinates: Tensor,
    right_coordinates: Tensor,
    *,
    temperature: float = defaults.CLIP_TEMPERATURE,
    sharpness: float = defaults.TEACHER_SHARPNESS,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Symmetric cross entropy between a balanced matching of the coordinates and that of the embeddings.

    L = ½ [H(Q by rows, softmax(l rᵀ / t)) + H(Qᵀ by rows, softmax(r lᵀ / t))]
    Q = Sinkhorn(exp(c dᵀ / e)), c and d the coordinates: rows of equal mass, columns of equal mass

    Args:
        left: (n, d) L2-normalised embeddings of an unpaired batch.
        right: (m, d) L2-normalised embeddings of the other modality's batch.
        left_coordinates: (n, c) unit rows that say where each left row lies; no gradient flows into them.
        right_coordinates: (m, c) unit rows, axis by axis comparable with the left ones.
        temperature: t > 0 of the embeddings.
        sharpness: e > 0, the entropic regularisation of the matching.
        iterations: Sinkhorn sweeps.

    Returns:
        Scalar >= 0 in float32 (float64 for float64 inputs); its least value is the entropy of Q.

    Raises:
        ValueError: shapes that do not fit, an empty set, NaN or inf, a temperature or sharpness that is not positive.

    Sources: Sinkhorn matching, Cuturi 2013, arXiv:1306.0895; matchings as soft labels, S-CLIP (Mo et al. 2023,
        arXiv:2305.14095).
    """
    check_rows("teacher", left=left, right=right)
    check_rows("teacher", left_coordinates=left_coordinates, right_coordinates=right_coordinates)
    if len(left) != len(left_coordinates) or len(right) != len(right_coordinates) or min(temperature, sharpness) <= 0:
        raise ValueError(
            "teacher needs coordinates for every row, temperature and sharpness above 0; got "
            f"{len(left)}, {len(right)} rows, {len(left_coordinates)}, {len(right_coordinates)} coordinates, "
            f"temperature {temperature}, sharpness {sharpness}"
        )
    dtype = torch.promote_types(left.dtype, torch.float32)
    log_matching = sinkhorn(
        left_coordinates.detach().to(dtype) @ right_coordinates.detach().to(dtype).T / sharpness, iterations
    )
    logits = left.to(dtype) @ right.to(dtype).T / temperature
    by_left = -(log_matching.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    by_right = -(log_matching.softmax(0) * logits.log_softmax(0)).sum(0).mean()
    return (by_left + by_right) / 2
