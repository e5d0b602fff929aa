"""All numbers of one pair of embedded sides: each with its chance level and its bootstrap distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from setclip_cli.evaluation import bootstrap, geometry, metrics, zero_shot

if TYPE_CHECKING:
    import numpy.typing as npt

    from setclip_cli.evaluation.test_set import TestSet

    Embeddings = npt.NDArray[np.float32]
    Floats = npt.NDArray[np.float64]

LOWER_IS_BETTER = ("median_rank", "mean_rank", "modality_gap", "sdd", "mmd", "uniformity", "hubness", "foscttm",
                   "alignment")  # fmt: skip
_CKA_TIMES = 200  # its resample costs n d², that of a mean costs n


@dataclass(frozen=True)
class Scores:
    """What was found for one target.

    Attributes:
        values: Metric key -> value.
        chance: Metric key -> what a model that knows nothing gets; None where that has no meaning.
        draws: Metric key -> bootstrap distribution over queries.
        forward, backward: The rankings of left queries and of right queries.
        zero_shot: The classification of the left rows; None without classes.
    """

    values: dict[str, float]
    chance: dict[str, float | None]
    draws: dict[str, Floats]
    forward: metrics.Retrieval
    backward: metrics.Retrieval
    zero_shot: zero_shot.ZeroShot | None


def lower_is_better(key: str) -> bool:
    """Whether a metric key names a distance or a rank."""
    name = key.rpartition("/")[2]
    return any(name == lower or name.startswith(f"{lower}_") for lower in LOWER_IS_BETTER)


def score(
    left: Embeddings, right: Embeddings, test: TestSet, prompted: tuple[list[str], Embeddings] | None = None
) -> Scores:
    """Retrieval both ways, zero-shot classes and geometry.

    Args:
        left: (n, d) unit rows, in the order of ``test.left``.
        right: (m, d) unit rows, in the order of ``test.right``.
        test: What is known of the rows.
        prompted: Classes, spelled as the left labels are, and a unit row (c, d) for each of them. Left out, the classes
            that both sides have stand by the means of their right rows.
    """
    values: dict[str, float] = {}
    chance: dict[str, float | None] = {}
    draws: dict[str, Floats] = {}
    there, back = test.relevance()
    names = f"{test.left.modality}_to_{test.right.modality}", f"{test.right.modality}_to_{test.left.modality}"
    rankings = metrics.retrieve(left, right, there), metrics.retrieve(right, left, back)
    for name, found in zip(names, rankings, strict=True):
        reduced, blind = metrics.reduce(found.values), metrics.reduce(found.chance)
        resampled = bootstrap.draws(found.values, medians={"median_rank": "first_rank"})
        resampled["mean_rank"] = resampled.pop("first_rank")
        values |= {f"{name}/{metric}": value for metric, value in reduced.items()}
        chance |= {f"{name}/{metric}": value for metric, value in blind.items()}
        draws |= {f"{name}/{metric}": resampled[metric] for metric in reduced}
    recalls = [f"{name}/{metric}" for name in names for metric in metrics.HEADLINE_RECALLS]
    values["retrieval/mean_recall"] = float(np.mean([values[key] for key in recalls]))
    chance["retrieval/mean_recall"] = float(np.mean([chance[key] or 0.0 for key in recalls]))
    draws["retrieval/mean_recall"] = np.mean([draws[key] for key in recalls], axis=0)
    classes, prototypes = prompted or (test.classes(), None)
    classified = None
    if len(classes) > 1:
        if prototypes is None:
            prototypes = zero_shot.class_means(right, test.right.labels, classes)
        classified = zero_shot.classify(left, test.left.labels, prototypes, classes)
        _add_zero_shot(classified, values, chance, draws)
    _add_geometry(left, right, values, chance, draws)
    paired = test.one_to_one()
    if len(paired) > 2:
        rows = np.array(paired)
        _add_paired_geometry(left[rows[:, 0]], right[rows[:, 1]], values, chance, draws)
    return Scores(values, chance, draws, *rankings, classified)


def point_values(left: Embeddings, right: Embeddings, test: TestSet) -> dict[str, float]:
    """The retrieval, zero-shot and density numbers alone, without chance and intervals: for what is only compared."""
    found: dict[str, float] = {}
    there, back = test.relevance()
    for queries, gallery, answers, (a, b) in (
        (left, right, there, (test.left, test.right)),
        (right, left, back, (test.right, test.left)),
    ):
        reduced = metrics.reduce(metrics.retrieve(queries, gallery, answers).values)
        found |= {f"{a.modality}_to_{b.modality}/{name}": value for name, value in reduced.items()}
    classes = test.classes()
    if len(classes) > 1:
        prototypes = zero_shot.class_means(right, test.right.labels, classes)
        classified = zero_shot.classify(left, test.left.labels, prototypes, classes)
        found |= {f"zero_shot/{name}": float(values.mean()) for name, values in classified.values.items()}
    return found | {f"geometry/{name}": value for name, value in set_distances(left, right).items()}


def set_distances(left: Embeddings, right: Embeddings) -> dict[str, float]:
    """Modality gap, SDD and MMD of two unpaired sets."""
    return {
        "modality_gap": geometry.modality_gap(left, right),
        "sdd": float(sum(part.mean() for part in geometry.sdd(left, right))),
        "mmd": float(sum(part.mean() for part in geometry.mmd(left, right))),
    }


def _add_zero_shot(
    found: zero_shot.ZeroShot, values: dict[str, float], chance: dict[str, float | None], draws: dict[str, Floats]
) -> None:
    resampled = bootstrap.draws(found.values)
    for name, per_row in found.values.items():
        values[f"zero_shot/{name}"] = float(per_row.mean())
        chance[f"zero_shot/{name}"] = found.chance[name]
        draws[f"zero_shot/{name}"] = resampled[name]
    members = {f"{place}": (found.truth == place).astype(np.float64) for place in np.unique(found.truth)}
    hits = bootstrap.draws({name: inside * found.values["top1"] for name, inside in members.items()})
    rows = bootstrap.draws(members)
    with np.errstate(invalid="ignore"):  # a class may be missing from a resample
        recalls = np.stack([hits[name] / rows[name] for name in members])
    values["zero_shot/mean_per_class_recall"] = float(np.nanmean(found.per_class()))
    chance["zero_shot/mean_per_class_recall"] = found.chance["top1"]
    draws["zero_shot/mean_per_class_recall"] = np.nanmean(recalls, axis=0)


def _add_geometry(
    left: Embeddings,
    right: Embeddings,
    values: dict[str, float],
    chance: dict[str, float | None],
    draws: dict[str, Floats],
) -> None:
    blind = set_distances(*geometry.shuffled(left, right))
    for name, parts in (("sdd", geometry.sdd(left, right)), ("mmd", geometry.mmd(left, right))):
        values[f"geometry/{name}"] = float(sum(part.mean() for part in parts))
        resampled = [bootstrap.draws({name: part}, seed=place)[name] for place, part in enumerate(parts)]
        draws[f"geometry/{name}"] = resampled[0] + resampled[1]
    values["geometry/modality_gap"] = geometry.modality_gap(left, right)
    centres = [
        np.stack([drawn @ side / len(side) for drawn in bootstrap.weights(len(side), seed=place)])
        for place, side in enumerate((left, right))
    ]
    draws["geometry/modality_gap"] = np.linalg.norm(centres[0] - centres[1], axis=1)
    chance |= {f"geometry/{name}": value for name, value in blind.items()}
    for name, queries, gallery in (("right", left, right), ("left", right, left)):
        nearest = geometry.neighbours(queries, gallery, geometry.NEIGHBOURS)
        key = f"geometry/hubness_{name}"
        values[key] = geometry.skewness(np.bincount(nearest.ravel(), minlength=len(gallery)).astype(np.float64))
        chance[key] = geometry.chance_skewness(len(queries), len(gallery))
        draws[key] = np.array(
            [
                geometry.skewness(
                    np.bincount(nearest.ravel(), np.repeat(drawn, nearest.shape[1]), len(gallery)).astype(np.float64)
                )
                for drawn in bootstrap.weights(len(queries))
            ]
        )
    for name, side in (("left", left), ("right", right)):
        if len(side) > 1:
            density = geometry.mean_potential(side)
            key = f"geometry/uniformity_{name}"
            values[key] = float(np.log(density.mean()))
            chance[key] = geometry.uniform_uniformity(side.shape[1])
            draws[key] = np.log(bootstrap.draws({key: density})[key])


def _add_paired_geometry(
    left: Embeddings,
    right: Embeddings,
    values: dict[str, float],
    chance: dict[str, float | None],
    draws: dict[str, Floats],
) -> None:
    rows = {
        "geometry/mutual_knn": geometry.mutual_knn(left, right),
        "geometry/foscttm": geometry.foscttm(left, right),
        "geometry/alignment": geometry.alignment(left, right),
    }
    values |= {key: float(per_row.mean()) for key, per_row in rows.items()}
    draws |= bootstrap.draws(rows)
    chance["geometry/mutual_knn"] = min(1.0, geometry.NEIGHBOURS / (len(left) - 1))
    chance["geometry/foscttm"] = 0.5
    chance["geometry/alignment"] = 2 - 2 * float(left.mean(0, dtype=np.float64) @ right.mean(0, dtype=np.float64))
    values["geometry/cka"] = geometry.linear_cka(left, right)
    chance["geometry/cka"] = geometry.linear_cka(left, np.random.default_rng(0).permutation(right))
    resampled = [
        geometry.linear_cka(*(np.repeat(side, drawn.astype(int), axis=0) for side in (left, right)))
        for drawn in bootstrap.weights(len(left), times=_CKA_TIMES)
    ]
    draws["geometry/cka"] = np.resize(resampled, bootstrap.TIMES)  # cycled, so that all distributions have one length
