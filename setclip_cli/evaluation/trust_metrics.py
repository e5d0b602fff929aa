"""Whether the probabilities of a RUN's answers are right, and whether its conformal sets hold the partners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.evaluation import bootstrap
from setclip_cli.evaluation.metric_names import TRUST_COVERAGES
from setclip_cli.evaluation.scoring import Metric
from setclip_cli.trust.answers import best_answers
from setclip_cli.trust.calibration import expected_calibration_error
from setclip_cli.trust.probability import conformal_sets, in_sets, probabilities
from setclip_cli.trust.saved import Calibration, read_calibration

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.evaluation.arrays import Embeddings, Floats
    from setclip_cli.evaluation.evaluation_set import EvaluationSet
    from setclip_cli.evaluation.model_folders import ModelFolder
    from setclip_cli.trust.probability import Both, Directions, Sets

BINS = 15


@dataclass(frozen=True)
class Trust:
    """What was found for one RUN.

    Attributes:
        metrics: By metric key, ``trust/ece`` and others.
        reliability: For bins of equally many first answers: mean probability, share of right ones, and how many.
    """

    metrics: dict[str, Metric]
    reliability: list[tuple[float, float, int]]


def calibration_for(model: ModelFolder, rows: EvaluationSet) -> Calibration | None:
    """The calibration to judge; None without one, for labels, and for rows that training or calibration has seen.

    Raises:
        SetClipError: the calibration is damaged, or belongs to another training.
    """
    if model.kind != "run" or rows.rule == "label" or model.recipe.get("train", {}).get("split") == rows.split:
        return None
    found = read_calibration(model.path)
    return None if found is None or found.split == rows.split else found


def judge_trust(calibration: Calibration, left: Embeddings, right: Embeddings, rows: EvaluationSet) -> Trust:
    """Compares what the calibration says of these rows with the right answers.

    Args:
        left: (n, d) unit rows, in the order of ``rows.left``.
        right: (m, d) unit rows, in the order of ``rows.right``.
    """
    directions = calibration.directions()
    sides = torch.from_numpy(np.ascontiguousarray(left)), torch.from_numpy(np.ascontiguousarray(right))
    answers = best_answers(*sides, (directions[0].temperature, directions[1].temperature), 1)
    judged, right_ones = (
        np.concatenate(found) for found in zip(*_first_answers(directions, answers, rows), strict=True)
    )
    found = {
        "trust/ece": Metric(
            expected_calibration_error(judged, right_ones, bins=BINS),
            float(1 - right_ones.mean()),  # to believe every answer
            _resampled_error(judged, right_ones),
        )
    }
    for coverage in TRUST_COVERAGES:
        sets = conformal_sets(directions, answers, *sides, coverage / 100)
        covered, size = _of_sets(sets, directions, answers, sides, rows)
        resampled = bootstrap.resampled_means({"covered": covered, "size": size})
        found[f"trust/coverage_{coverage}"] = Metric(float(covered.mean()), float(size.mean()), resampled["covered"])
        found[f"trust/set_share_{coverage}"] = Metric(float(size.mean()), coverage / 100, resampled["size"])
    return Trust(found, _reliability(judged, right_ones))


def _first_answers(directions: Directions, answers: Both, rows: EvaluationSet) -> list[tuple[Floats, Floats]]:
    """For both directions, of the queries with a right answer: the probability, and whether the answer is right."""
    found = []
    for side, relevance in enumerate(rows.relevance()):
        queries = torch.from_numpy(relevance.queries)
        nearest = answers[side].rows[queries]
        judged = probabilities(directions, answers, side, queries, nearest, answers[side].cosines[queries])
        right = [
            float(row in relevance.of(query))
            for query, row in zip(queries.tolist(), nearest[:, 0].tolist(), strict=True)
        ]
        found.append((judged[:, 0].double().numpy(), np.array(right)))
    return found


def _of_sets(
    sets: Sets, directions: Directions, answers: Both, sides: tuple[Tensor, Tensor], rows: EvaluationSet
) -> tuple[Floats, Floats]:
    """For each query of both directions: the share of its right answers in its set, and of the gallery."""
    covered, sizes = [], []
    for side, relevance in enumerate(rows.relevance()):
        for query in relevance.queries.tolist():
            own = torch.from_numpy(relevance.of(query))[None]
            cosines = sides[side][query] @ sides[1 - side][own[0]].T
            inside = in_sets(sets, directions, answers, side, torch.tensor([query]), own, cosines[None])
            covered.append(float(inside.double().mean()))
        sizes.append(sets.sizes[side][torch.from_numpy(relevance.queries)].double().numpy() / answers[side].others)
    return np.array(covered), np.concatenate(sizes)


def _bins(judged: Floats) -> list[np.ndarray]:
    return np.array_split(np.argsort(judged, kind="stable"), min(BINS, len(judged)))


def _resampled_error(judged: Floats, right: Floats) -> Floats:
    """Bootstrap distribution of the calibration error, over queries, with the bins as they are."""
    off, bins = judged - right, _bins(judged)
    counts = bootstrap.resample_counts(len(judged))
    return np.array([sum(abs(count[rows] @ off[rows]) for rows in bins) / len(judged) for count in counts])


def _reliability(judged: Floats, right: Floats) -> list[tuple[float, float, int]]:
    return [(float(judged[rows].mean()), float(right[rows].mean()), len(rows)) for rows in _bins(judged)]
