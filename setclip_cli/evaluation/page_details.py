"""What only the HTML page shows, of the first model: maps, densities, classes and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from setclip_cli.evaluation import examples, geometry, metrics
from setclip_cli.evaluation.plane_map import PlaneMap, plane_map, sample_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.evaluation.evaluation_set import EvaluationSet
    from setclip_cli.evaluation.report_content import ScoredModel
    from setclip_cli.evaluation.zero_shot import ZeroShot


@dataclass(frozen=True)
class DirectionExamples:
    """The queries of one direction that are answered best and worst."""

    query_modality: Modality
    gallery_modality: Modality
    best: list[examples.Example]
    worst: list[examples.Example]


@dataclass(frozen=True)
class PageDetails:
    """All that the page shows and report.json does not hold.

    Attributes:
        model: Name of the model that is shown.
        maps, densities: By moment: ``before`` training, if it is known, and ``after``.
        map_labels: Labels of the mapped left rows and of the mapped right rows.
        chance_curves: Direction -> recall curve of random rankings.
        rows: Modality -> row -> what a reader sees of it.
    """

    model: str
    maps: dict[str, PlaneMap]
    map_labels: tuple[Sequence[str | None], Sequence[str | None]]
    densities: dict[str, dict[str, list[float]]]
    chance_curves: dict[str, list[tuple[int, float]]]
    zero_shot: ZeroShot | None
    confusions: list[examples.Confusion]
    examples: list[DirectionExamples]
    rows: dict[str, dict[int, dict[str, Any]]]


def page_details(one: ScoredModel, rows: EvaluationSet, dataset: Dataset) -> PageDetails:
    """Chooses what is shown and reads it from the dataset."""
    left, right = one.sides
    answers = rows.relevance()
    in_map = sample_rows(len(left)), sample_rows(len(right), seed=1)
    moments = {"after": one.sides} | ({"before": one.untrained} if one.untrained else {})
    of_directions = [
        DirectionExamples(
            query_side.modality,
            gallery_side.modality,
            *examples.best_and_worst_queries(queries, gallery, relevance, ranking, query_side),
        )
        for queries, gallery, relevance, ranking, query_side, gallery_side in (
            (left, right, answers[0], one.scores.left_to_right, rows.left, rows.right),
            (right, left, answers[1], one.scores.right_to_left, rows.right, rows.left),
        )
    ]
    classified = one.scores.zero_shot
    confusions = examples.frequent_confusions(classified) if classified else []
    shown: dict[str, set[int]] = {rows.left.modality: {mistake.example for mistake in confusions}}
    shown[rows.right.modality] = set()
    for found in of_directions:
        for example in (*found.best, *found.worst):
            shown[found.query_modality].add(example.query)
            shown[found.gallery_modality] |= {answer.row for answer in (*example.answers, example.best_relevant)}
    return PageDetails(
        one.model.name,
        {moment: plane_map(sides.left[in_map[0]], sides.right[in_map[1]]) for moment, sides in moments.items()},
        ([rows.left.labels[row] for row in in_map[0]], [rows.right.labels[row] for row in in_map[1]]),
        {moment: geometry.similarity_density(*sides) for moment, sides in moments.items()},
        {
            direction: metrics.chance_curve(relevance.counts(), relevance.gallery)
            for direction, relevance in zip(rows.directions(), answers, strict=True)
        },
        classified,
        confusions,
        of_directions,
        {
            side.modality: examples.displayed_rows(dataset, side, rows.split, shown[side.modality])
            for side in (rows.left, rows.right)
        },
    )
