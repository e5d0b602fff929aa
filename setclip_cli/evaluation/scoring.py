"""All metrics of one model: each with its chance level and its bootstrap distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from setclip_cli.evaluation import bootstrap, geometry
from setclip_cli.evaluation.metric_names import (
    GEOMETRY,
    MEAN_RECALL,
    PAIRED_GEOMETRY,
    RETRIEVAL_METRICS,
    TRUST,
    UNIFORMITY,
    ZERO_SHOT,
)
from setclip_cli.evaluation.metrics import HEADLINE_RECALLS, Retrieval, mean_over_queries, retrieve
from setclip_cli.evaluation.similarity import unit_rows
from setclip_cli.evaluation.zero_shot import ZeroShot, class_means, classify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from setclip_cli.evaluation.arrays import Embeddings, Floats
    from setclip_cli.evaluation.evaluation_set import EvaluationSet


FEWEST_PAIRS = 3  # for the paired geometry
_CKA_RESAMPLES = 200  # a resample costs n d², that of a mean costs n


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        chance: What a model that cannot tell any two rows apart gets.
        resampled: Bootstrap distribution over queries.
    """

    value: float
    chance: float
    resampled: Floats


@dataclass(frozen=True)
class Scores:
    """What was found for one model.

    Attributes:
        metrics: By metric key.
        left_to_right, right_to_left: The rankings of left queries and of right queries.
        zero_shot: The classification of the left rows; None without classes.
    """

    metrics: dict[str, Metric]
    left_to_right: Retrieval
    right_to_left: Retrieval
    zero_shot: ZeroShot | None


def metric_keys(rows: EvaluationSet, *, prompted: bool = False, calibrated: bool = False) -> list[str]:
    """The keys that `score` will find for these rows, known before anything is scored.

    Args:
        prompted: Whether a task set gives the classes.
        calibrated: Whether the probabilities of the model are judged too, by `judge_trust`.
    """
    keys = [f"{direction}/{name}" for direction in rows.directions() for name in RETRIEVAL_METRICS]
    keys.append(MEAN_RECALL)
    if prompted or len(rows.common_classes()) > 1:
        keys += [f"zero_shot/{name}" for name in ZERO_SHOT]
    keys += [f"geometry/{name}" for name in GEOMETRY]
    keys += [
        f"geometry/{name}" for name, side in zip(UNIFORMITY, (rows.left, rows.right), strict=True) if len(side.ids) > 1
    ]
    if len(rows.first_partners()) >= FEWEST_PAIRS:
        keys += [f"geometry/{name}" for name in PAIRED_GEOMETRY]
    return keys + ([f"trust/{name}" for name in TRUST] if calibrated else [])


def score(
    left: Embeddings, right: Embeddings, rows: EvaluationSet, prompted: tuple[list[str], Embeddings] | None = None
) -> Scores:
    """Retrieval in both directions, zero-shot classification and geometry.

    Args:
        left: (n, d) unit rows, in the order of ``rows.left``.
        right: (m, d) unit rows, in the order of ``rows.right``.
        prompted: Classes, spelled as the left labels are, and a unit row (c, d) for each of them. By default, the
            classes that both sides have, each with the mean of its right rows.
    """
    rankings = _rank_both_directions(left, right, rows)
    found: dict[str, Metric] = {}
    for direction, ranking in zip(rows.directions(), rankings, strict=True):
        found |= {f"{direction}/{name}": metric for name, metric in _retrieval_metrics(ranking).items()}
    recalls = [found[f"{direction}/{name}"] for direction in rows.directions() for name in HEADLINE_RECALLS]
    found[MEAN_RECALL] = Metric(
        float(np.mean([one.value for one in recalls])),
        float(np.mean([one.chance for one in recalls])),
        np.mean([one.resampled for one in recalls], axis=0),
    )
    classified = _classify_left(left, right, rows, prompted)
    if classified:
        found |= {f"zero_shot/{name}": metric for name, metric in _zero_shot_metrics(classified).items()}
    found |= {f"geometry/{name}": metric for name, metric in _set_geometry(left, right).items()}
    partners = rows.first_partners()
    if len(partners) >= FEWEST_PAIRS:
        left_rows, right_rows = np.array(partners).T
        paired = _paired_geometry(left[left_rows], right[right_rows])
        found |= {f"geometry/{name}": metric for name, metric in paired.items()}
    return Scores(found, *rankings, classified)


def point_values(left: Embeddings, right: Embeddings, rows: EvaluationSet) -> dict[str, float]:
    """The values of retrieval, zero-shot classification and set distances, without chance levels and intervals."""
    found: dict[str, float] = {}
    for direction, ranking in zip(rows.directions(), _rank_both_directions(left, right, rows), strict=True):
        means = mean_over_queries(ranking.values)
        found |= {f"{direction}/{name}": value for name, value in means.items()}
    classified = _classify_left(left, right, rows)
    if classified:
        found |= {f"zero_shot/{name}": float(values.mean()) for name, values in classified.values.items()}
    return found | {f"geometry/{name}": value for name, value in set_distances(left, right).items()}


def values_by_width(
    left: Embeddings, right: Embeddings, rows: EvaluationSet, widths: Sequence[int]
) -> dict[int, dict[str, float]]:
    """For each width of nested embeddings the values of retrieval with the first values alone, by metric key."""
    found: dict[int, dict[str, float]] = {}
    for width in widths:
        cut = [side if width == side.shape[1] else unit_rows(side[:, :width]) for side in (left, right)]
        rankings = _rank_both_directions(cut[0], cut[1], rows)
        found[width] = {
            f"{direction}/{name}": value
            for direction, ranking in zip(rows.directions(), rankings, strict=True)
            for name, value in mean_over_queries(ranking.values).items()
        }
    return found


def set_distances(left: Embeddings, right: Embeddings) -> dict[str, float]:
    """Modality gap, SDD and MMD² of two unpaired sets."""
    return {
        "modality_gap": geometry.modality_gap(left, right),
        "sdd": float(sum(shares.mean() for shares in geometry.sdd_shares(left, right))),
        "mmd": float(sum(shares.mean() for shares in geometry.mmd_shares(left, right))),
    }


def _rank_both_directions(left: Embeddings, right: Embeddings, rows: EvaluationSet) -> tuple[Retrieval, Retrieval]:
    to_left_queries, to_right_queries = rows.relevance()
    return retrieve(left, right, to_left_queries), retrieve(right, left, to_right_queries)


def _classify_left(
    left: Embeddings, right: Embeddings, rows: EvaluationSet, prompted: tuple[list[str], Embeddings] | None = None
) -> ZeroShot | None:
    classes = prompted[0] if prompted else rows.common_classes()
    if len(classes) < 2:
        return None
    prototypes = prompted[1] if prompted else class_means(right, rows.right.labels, classes)
    return classify(left, rows.left.labels, prototypes, classes)


def _retrieval_metrics(ranking: Retrieval) -> dict[str, Metric]:
    values, chance = mean_over_queries(ranking.values), mean_over_queries(ranking.chance)
    resampled = bootstrap.resampled_means(ranking.values, medians={"median_rank": "first_rank"})
    resampled["mean_rank"] = resampled.pop("first_rank")
    return {name: Metric(value, chance[name], resampled[name]) for name, value in values.items()}


def _zero_shot_metrics(found: ZeroShot) -> dict[str, Metric]:
    measured = _means(found.values, found.chance)
    members = {f"{place}": (found.truth == place).astype(np.float64) for place in np.unique(found.truth)}
    hits = bootstrap.resampled_means({name: inside * found.values["top1"] for name, inside in members.items()})
    rows = bootstrap.resampled_means(members)
    with np.errstate(invalid="ignore"):  # a class may be missing from a resample
        recalls = np.stack([hits[name] / rows[name] for name in members])
    measured["mean_per_class_recall"] = Metric(
        float(np.nanmean(found.per_class())), found.chance["top1"], np.nanmean(recalls, axis=0)
    )
    return measured


def _means(values: Mapping[str, Floats], chance: Mapping[str, float]) -> dict[str, Metric]:
    """Metrics that are means over rows: name -> (n,) value of each row."""
    resampled = bootstrap.resampled_means(values)
    return {name: Metric(float(rows.mean()), chance[name], resampled[name]) for name, rows in values.items()}


def _set_geometry(left: Embeddings, right: Embeddings) -> dict[str, Metric]:
    chance = set_distances(*geometry.random_split_of_pool(left, right))
    found = {}
    for name, shares in (("sdd", geometry.sdd_shares(left, right)), ("mmd", geometry.mmd_shares(left, right))):
        left_means, right_means = (
            bootstrap.resampled_means({name: rows}, seed=side)[name] for side, rows in enumerate(shares)
        )
        found[name] = Metric(float(sum(rows.mean() for rows in shares)), chance[name], left_means + right_means)
    centres = [
        np.stack([counts @ rows / len(rows) for counts in bootstrap.resample_counts(len(rows), seed=side)])
        for side, rows in enumerate((left, right))
    ]
    found["modality_gap"] = Metric(
        geometry.modality_gap(left, right),
        chance["modality_gap"],
        np.linalg.norm(centres[0] - centres[1], axis=1),
    )
    found |= {"hubness_right": _hubness(left, right), "hubness_left": _hubness(right, left)}
    for name, rows in (("left", left), ("right", right)):
        if len(rows) > 1:
            potential = geometry.mean_potential(rows)
            resampled = np.log(bootstrap.resampled_means({name: potential})[name])
            chance_level = geometry.uniform_uniformity(rows.shape[1])
            found[f"uniformity_{name}"] = Metric(float(np.log(potential.mean())), chance_level, resampled)
    return found


def _hubness(queries: Embeddings, gallery: Embeddings) -> Metric:
    """Skewness of how often each gallery row is among the nearest neighbours of a query."""
    nearest = geometry.neighbours(queries, gallery, geometry.NEIGHBOURS)

    def skewness(weights: Floats | None = None) -> float:
        occurrences = np.bincount(nearest.ravel(), weights, len(gallery))
        return geometry.skewness(occurrences.astype(np.float64))

    resampled = [
        skewness(np.repeat(counts, nearest.shape[1])) for counts in bootstrap.resample_counts(len(queries))
    ]  # fmt: skip
    return Metric(skewness(), geometry.chance_skewness(len(queries), len(gallery)), np.array(resampled))


def _paired_geometry(left: Embeddings, right: Embeddings) -> dict[str, Metric]:
    """Row i of ``left`` and row i of ``right`` are partners."""
    rows = {
        "mutual_knn": geometry.mutual_knn(left, right),
        "foscttm": geometry.foscttm(left, right),
        "alignment": geometry.alignment(left, right),
    }
    chance = {
        "mutual_knn": min(1.0, geometry.NEIGHBOURS / (len(left) - 1)),
        "foscttm": 0.5,
        "alignment": 2 - 2 * float(left.mean(0, dtype=np.float64) @ right.mean(0, dtype=np.float64)),
    }
    resampled = [
        geometry.linear_cka(*(np.repeat(side, counts.astype(int), axis=0) for side in (left, right)))
        for counts in bootstrap.resample_counts(len(left), resamples=_CKA_RESAMPLES)
    ]
    cka = Metric(
        geometry.linear_cka(left, right),
        geometry.linear_cka(left, np.random.default_rng(0).permutation(right)),
        np.resize(resampled, bootstrap.RESAMPLES),  # repeated, so that all distributions have one length
    )
    return _means(rows, chance) | {"cka": cka}
