"""The metrics that a report can have. Options and studies are checked with this table, before anything heavy loads."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality, why_not_a_name
from setclip_cli.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

RECALL_AT = (1, 5, 10)
RETRIEVAL_METRICS = (*(f"recall_at_{k}" for k in RECALL_AT), "map", "mrr", "ndcg_at_10", "precision_at_1",
                     "precision_at_10", "median_rank", "mean_rank")  # fmt: skip
ZERO_SHOT = ("top1", "top5", "mean_per_class_recall")
GEOMETRY = ("sdd", "mmd", "modality_gap", "hubness_right", "hubness_left")
UNIFORMITY = ("uniformity_left", "uniformity_right")
PAIRED_GEOMETRY = ("mutual_knn", "foscttm", "alignment", "cka")
MEAN_RECALL = "retrieval/mean_recall"
TRUST_COVERAGES = (80, 90, 95)
TRUST = ("ece", *(f"{what}_{coverage}" for coverage in TRUST_COVERAGES for what in ("coverage", "set_share")))
LOWER_IS_BETTER = ("median_rank", "mean_rank", "modality_gap", "sdd", "mmd", "uniformity", "hubness", "foscttm",
                   "alignment", "ece", "set_share")  # fmt: skip
_SHARES = ("recall", "precision", "map", "mrr", "ndcg", "top", "mean_recall", "mean_per_class", "mutual_knn", "cka",
           "coverage")  # fmt: skip


def lower_is_better(key: str) -> bool:
    """Whether a metric key names a distance or a rank."""
    name = key.rpartition("/")[2]
    return any(name == lower or name.startswith(f"{lower}_") for lower in LOWER_IS_BETTER)


def is_share(key: str) -> bool:
    """Whether a metric is a share from 0 to 1, of which more is better."""
    return key.rpartition("/")[2].startswith(_SHARES)


def possible_metric(key: str) -> bool:
    """Whether a report of some two modalities can have this key."""
    direction, _, name = key.rpartition("/")
    left, between, right = direction.partition("_to_")
    between_names = between and left != right and not why_not_a_name(left) and not why_not_a_name(right)
    return (name in RETRIEVAL_METRICS) if between_names else key in metric_keys_between(())


def metric_keys_between(modalities: Iterable[Modality] = KINDS_OF_NAMES) -> list[str]:
    """The keys of reports of two of these modalities, in each direction, and those of every report."""
    directions = [f"{left}_to_{right}" for left, right in permutations(modalities, 2)]
    keys = [f"{direction}/{name}" for direction in directions for name in RETRIEVAL_METRICS]
    keys += [MEAN_RECALL, *(f"zero_shot/{name}" for name in ZERO_SHOT)]
    keys += [f"geometry/{name}" for name in (*GEOMETRY, *UNIFORMITY, *PAIRED_GEOMETRY)]
    return keys + [f"trust/{name}" for name in TRUST]


def nearest_metric(key: str, known: list[str]) -> str:
    """`nearest`, for a key or the mere name of a metric, also as others write it: ``mAP``, ``R@5``, ``recall@5``."""
    part, _, name = key.lower().replace("@", "_at_").rpartition("/")
    name = f"recall_at_{name.removeprefix('r_at_')}" if name.startswith("r_at_") else name
    with_the_name = [one for one in known if one.rpartition("/")[2] == name]
    if with_the_name and (not part or f"{part}/{name}" not in known):
        return nearest(f"{part}/{name}", with_the_name) or f" (did you mean {with_the_name[0]!r}?)"
    return nearest(f"{part}/{name}" if part else name, known)
