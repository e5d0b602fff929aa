"""The probability that each hit of a search is right, by the calibration of the RUN that made the embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.run.config import load_config
from setclip_cli.trust.probability import probabilities_alone
from setclip_cli.trust.saved import read_calibration, why_not

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.embeddings import Embeddings
    from setclip_cli.embedding.vectors import Rows, Vectors
    from setclip_cli.trust.calibration import Direction


@dataclass(frozen=True)
class HitJudge:
    """Turns the cosines of hits into probabilities.

    Attributes:
        direction: The calibration of answers to such queries.
        queries: Rows of the query's modality that belong to the rows that are searched; 0 if there are none.
    """

    direction: Direction
    queries: int

    def probabilities(self, cosines: Sequence[float], mass: float, gallery: int) -> list[float]:
        """For each hit the probability that it is right, if the query has a partner here.

        Args:
            mass: log Σ_j exp(cos_j / temperature) over all rows that were searched.
            gallery: How many rows were searched.
        """
        found = probabilities_alone(
            self.direction,
            torch.tensor(list(cosines), dtype=torch.float64),
            mass,
            queries=self.queries,
            gallery=gallery,
        )
        return [round(probability, 6) for probability in found.tolist()]


def open_hit_judge(
    embeddings: Embeddings, run: Path, asked: Modality, wanted: Modality, split: str | None
) -> tuple[HitJudge | None, str]:
    """What judges the hits of a search, or None and why there is none; no word if rows of one modality are compared.

    Args:
        embeddings: The EMBEDDINGS that are searched.
        run: The RUN that made them.
        asked: The modality of the query; wanted: that of the rows.
        split: What is searched; None for all.

    Raises:
        SetClipError: the calibration is damaged, or belongs to another training.
    """
    config = load_config(run)
    if asked == wanted:
        return None, ""
    if embeddings.index.dtype == "ubinary":
        return None, (
            "the cosines of ubinary rows are estimates, which the calibration of the RUN does not judge; for "
            "probabilities, embed with --dtype int8"
        )
    if (width := embeddings.index.width) is not None:
        return None, (
            f"the calibration of the RUN judges whole embeddings, and these are cut to {width} values; for "
            "probabilities, embed without --width"
        )
    calibration = read_calibration(run)
    if calibration is None:
        why, fix = why_not(run, config)
        return None, f"{why}; {fix}"
    direction = calibration.directions()[config.modalities().index(asked)]
    queries = sum(
        shard.rows for shard in embeddings.index.shards if shard.modality == asked and split in (None, shard.split)
    )
    return HitJudge(direction, queries), ""


def hit_probabilities(
    embeddings: Embeddings,
    run: Path,
    asked: Modality,
    wanted: Modality,
    split: str | None,
    rows: Rows,
    query: Vectors,
    cosines: Sequence[float],
) -> tuple[list[float | None], str]:
    """For each hit of a search its probability, see `HitJudge`; or why there is none.

    Args:
        rows: That were searched.
        query: (d,) unit vector.
        cosines: Of the hits.

    Raises:
        SetClipError: as `open_hit_judge`.
    """
    judge, why = open_hit_judge(embeddings, run, asked, wanted, split)
    if judge is None or not len(rows):
        return [None] * len(cosines), why
    mass = _mass(rows, query, judge.direction.temperature)
    return [*judge.probabilities(cosines, mass, len(rows))], ""


def _mass(rows: Rows, query: Vectors, temperature: float) -> float:
    """log Σ_j exp(cos / temperature) over all rows, in blocks."""
    total = -math.inf
    for _, cosines in rows.cosines(query):
        scores = cosines.astype(np.float64) / temperature
        highest = float(scores.max())
        total = float(np.logaddexp(total, highest + math.log(float(np.exp(scores - highest).sum()))))
    return total
