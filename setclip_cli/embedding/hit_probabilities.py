"""The probability that each hit of a search is right, by the calibration of the RUN that made the embeddings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.embedding.vectors import ROWS_PER_BLOCK
from setclip_cli.run.config import load_config
from setclip_cli.trust.probability import probabilities_alone
from setclip_cli.trust.saved import read_calibration, why_not

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.embeddings import Embeddings
    from setclip_cli.embedding.vectors import Vectors


def hit_probabilities(
    embeddings: Embeddings,
    run: Path,
    asked: Modality,
    wanted: Modality,
    split: str | None,
    vectors: Vectors,
    query: Vectors,
    cosines: Sequence[float],
) -> tuple[list[float | None], str]:
    """For each hit the probability that it is right, if the query has a partner here; and why there is none.

    Args:
        embeddings: The EMBEDDINGS that are searched.
        run: The RUN that made them.
        asked: The modality of the query; wanted: that of the rows.
        split: That was searched; None for all.
        vectors: (n, d) unit rows that were searched.
        query: (d,) unit vector.
        cosines: Of the hits.

    Raises:
        SetClipError: the calibration is damaged, or belongs to another training.
    """
    nothing: list[float | None] = [None] * len(cosines)
    config = load_config(run)
    if asked == wanted or not len(vectors):
        return nothing, ""
    calibration = read_calibration(run)
    if calibration is None:
        why, fix = why_not(run, config)
        return nothing, f"{why}; {fix}"
    direction = calibration.directions()[config.modalities().index(asked)]
    queries = sum(
        shard.rows for shard in embeddings.index.shards if shard.modality == asked and split in (None, shard.split)
    )
    found = probabilities_alone(
        direction,
        torch.tensor(list(cosines), dtype=torch.float64),
        _mass(vectors, query, direction.temperature),
        queries=queries,
        gallery=len(vectors),
    )
    return [round(probability, 6) for probability in found.tolist()], ""


def _mass(vectors: Vectors, query: Vectors, temperature: float) -> float:
    """log Σ_j exp(cos / temperature) over all rows, in blocks."""
    total = -math.inf
    for start in range(0, len(vectors), ROWS_PER_BLOCK):
        scores = (np.asarray(vectors[start : start + ROWS_PER_BLOCK]) @ query).astype(np.float64) / temperature
        highest = float(scores.max())
        total = float(np.logaddexp(total, highest + math.log(float(np.exp(scores - highest).sum()))))
    return total
