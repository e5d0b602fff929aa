"""Which items a person should be asked about next: those whose partners say most about the others.

A pool is cut into as many clusters as there will be known items. A cluster that holds a known item is covered; of each
other one the most typical item is taken, that of the largest cluster first. So the items are spread over the pool, and
none of them is an odd one out. What else was tried is in benchmarks/results.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from setclip_cli.dataset.modality import plural
from setclip_cli.encoders import FeatureTransform
from setclip_cli.errors import UsageError, argument, nearest
from setclip_cli.methods.no_pairs import spherical_kmeans

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.pools import Pools

AXES = 64  # principal axes of a pool that the clusters see
STARTS = 3  # clusterings, of which the tightest is taken
ROWS = 20_000  # a larger pool is clustered by so many of its rows, which the seed draws
KNOWN = 1_000  # known rows that clusters are made for: more clusters would take minutes
BLOCK = 1 << 24  # similarities held at a time: 64 MiB


@dataclass(frozen=True)
class Suggestion:
    """An item to ask about.

    Attributes:
        side: 0 for the left side, 1 for the right one.
        row: Its row in the pool.
        score: Share of the pool that it stands for.
        reason: Why it was chosen, in words.
    """

    side: int
    modality: Modality
    row: int
    id: str
    score: float
    reason: str


def choose_items(
    pools: Pools, count: int, *, seed: int = 0, side: int | None = None, exclude: Collection[int] = ()
) -> list[Suggestion]:
    """The items of one side whose partners are most worth knowing, the most worth first.

    Items with a known partner are never among them, nor those of which a file of pairs says that they have none.

    Args:
        count: How many; fewer come back if there are not so many.
        seed: Decides the draws. The order of the rows decides nothing.
        side: 0 for the left side, the default, or 1 for the right one.
        exclude: Further rows of that side not to take, such as those that a person has skipped or answered. They do
            not count as known.
    """
    side = 0 if side is None else side
    pool = pools.sides[side]
    lone = pools.dataset.lone_items()
    known = set(pools.pairs[:, side].tolist())
    left_out = known | {*exclude} | {row for row, name in enumerate(pool.ids) if (pool.modality, name) in lone}
    order = sorted(range(len(pool.ids)), key=pool.ids.__getitem__)
    place = {row: at for at, row in enumerate(order)}
    features = pool.features[torch.tensor(order)].float()
    chosen = choose_rows(
        FeatureTransform.fit(features, AXES)(features),
        count,
        seed=seed,
        known=[place[row] for row in sorted(known)],
        exclude=[place[row] for row in sorted(left_out)],
    )
    return [
        Suggestion(
            side,
            pool.modality,
            order[row],
            pool.ids[order[row]],
            stands_for / len(order),
            f"typical of {stands_for:,} of {len(order):,} {plural(pool.modality)}"
            + (" that no known pair is near to" if known else ""),
        )
        for row, stands_for in chosen
    ]


def side_of(pools: Pools, modality: Modality | None) -> int | None:
    """The number of the side that a user names.

    Raises:
        UsageError: no side has that name.
    """
    names = [pool.modality for pool in pools.sides]
    if modality is None:
        return None
    if modality not in names:
        raise UsageError(
            f"{argument('side')} {modality}: is not a side here{nearest(modality, names)}",
            fix=f"choose one of: {', '.join(names)}",
        )
    return names.index(modality)


def choose_rows(
    rows: Tensor, count: int, *, seed: int, known: Sequence[int] = (), exclude: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """Typical rows that lie apart from each other and from the known ones: (row, rows that it stands for) of each.

    Args:
        rows: (n, d) transformed features.
        count: How many; fewer come back if there are not so many.
        seed: Decides the starts of the clusterings.
        known: Rows whose clusters are covered.
        exclude: Rows that are not taken.

    Source: typical items of clusters without a known one, Hacohen, Dekel & Weinshall 2022 (ICML), arXiv:2202.02794.
    """
    unit = F.normalize(rows, dim=1)
    free = torch.ones(len(unit), dtype=torch.bool)
    free[[*exclude]] = False
    count = min(count, int(free.sum()))
    if count < 1:
        return []
    clusters = min(count + min(len(set(known)), KNOWN), len(unit))
    owner, likeness = _nearest(unit, _centroids(unit, clusters, seed))
    sizes = owner.bincount(minlength=clusters)
    covered = owner[[*known]].bincount(minlength=clusters) / sizes.clamp_min(1)
    # Of each cluster its free rows, the most typical first.
    waiting: list[list[int]] = [[] for _ in range(clusters)]
    for row in likeness.argsort(descending=True, stable=True).tolist():
        if free[row]:
            waiting[int(owner[row])].append(row)
    order = sorted(range(clusters), key=lambda cluster: (float(covered[cluster]), -int(sizes[cluster]), cluster))
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count:  # again if all clusters have been asked and more rows are wanted
        for cluster in order:
            if waiting[cluster] and len(chosen) < count:
                chosen.append((waiting[cluster].pop(0), int(sizes[cluster])))
    return chosen


def _centroids(unit: Tensor, clusters: int, seed: int) -> Tensor:
    """Of the tightest of a few clusterings."""
    random = np.random.default_rng([seed, 41])
    if len(unit) > ROWS:
        unit = unit[torch.from_numpy(np.sort(random.choice(len(unit), max(ROWS, clusters), replace=False)))]
    found = [spherical_kmeans(unit, clusters, random) for _ in range(STARTS)]
    return max(found, key=lambda centroids: float(_nearest(unit, centroids)[1].double().sum()))


def _nearest(unit: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) the nearest centroid of each row, and (n,) its cosine."""
    parts = [(block @ centroids.T).max(1) for block in torch.split(unit, max(1, BLOCK // len(centroids)))]
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])
