"""The rival that needs no pairs: mini-vec2vec. See ``rivals``."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from rivals_fitted import Embeds
from torch import Tensor

from setclip_cli.encoders import Composed, FeatureTransform, LinearMap
from setclip_cli.encoders.neighbours import Neighbours, nearest_neighbours
from setclip_cli.methods.no_pairs import match, settled_centroids, spherical_kmeans


def mini_vec2vec(
    left: Tensor,
    right: Tensor,
    pairs: Tensor,
    *,
    seed: int,
    axes: int = 64,
    runs: int = 30,
    clusters: int = 20,
    starts: int = 30,
    neighbours: int = 50,
    refinements: int = 100,
    refined_rows: int = 1000,
    fine_clusters: int = 500,
    smoothing: float = 0.5,
) -> Embeds:
    """mini-vec2vec: a rotation between two pools from their geometry alone.

        anchors      ``runs`` times: k-means of both pools, centroids matched so that Σ_ij S_ij T_π(i)π(j) is largest,
                     S and T the cosines of the centroids of each side; all matched centroids are anchors
        first match  x̃_i = mean of the k right rows whose cosines to the anchors are most like those of x_i
        rotation     W = U Vᵀ with U Σ Vᵀ = SVD(Xᵀ X̃)
        refinement   W ← (1 - a) W + a · Procrustes(x, mean of the k nearest right rows of x W), on a sample of x
        correction   W ← (1 - a) W + a · Procrustes(centroids of X, centroids of Y by k-means started at theirs times W)

    Args:
        left: (n, p) features.
        right: (m, q) features. Row order means nothing.
        pairs: Are not used.
        seed: Decides the clusterings, the searches and the samples.
        axes: Principal axes kept of each pool; 0 keeps as many as both have.
        runs: Clusterings of both pools.
        clusters: Clusters of each run.
        starts: Random starts of each assignment search.
        neighbours: k.
        refinements: Rounds of the refinement.
        refined_rows: Left rows in a round.
        fine_clusters: Clusters of the correction; 0 leaves it out.
        smoothing: a.

    Reported: two text encoders of equal width, with 30 runs, 20 clusters, 30 starts, 50 neighbours, 100 rounds of 1,000
    rows, 500 clusters and a = 0.5 (the released notebook). Differences: both pools are cut to the same number of
    principal axes, since widths differ here; k-means is by cosine; the assignment search is setclip's (Frank-Wolfe,
    then swaps; there: swaps alone); the correction has at most one cluster for 5 rows.

    Source: Dar 2025, arXiv:2510.02348.
    """
    random = np.random.default_rng(seed)
    kept = min(axes or left.shape[1], *left.shape, *right.shape)
    transforms = FeatureTransform.fit(left, kept), FeatureTransform.fit(right, kept)
    x, y = (F.normalize(transform(pool), dim=1) for transform, pool in zip(transforms, (left, right), strict=True))

    matched = [_matched_centroids(x, y, clusters, starts, random) for _ in range(runs)]
    x_cosines, y_cosines = (
        side @ torch.cat([each[number] for each in matched]).T for number, side in enumerate((x, y))
    )
    rotation = procrustes(x, _means(y, nearest_neighbours(x_cosines, y_cosines, neighbours)[0]))

    search = Neighbours(y)
    for _ in range(refinements):
        sample = x[torch.from_numpy(random.permutation(len(x))[:refined_rows])]
        near = _means(y, search.nearest(sample @ rotation, neighbours)[0])
        rotation = (1 - smoothing) * rotation + smoothing * procrustes(sample, near)

    fine = min(fine_clusters, len(x) // 5, len(y) // 5)
    if fine:
        centroids = spherical_kmeans(x, fine, random)
        corrected = procrustes(centroids, settled_centroids(y, F.normalize(centroids @ rotation, dim=1)))
        rotation = (1 - smoothing) * rotation + smoothing * corrected
    return Composed(transforms[0], LinearMap(rotation)), Composed(transforms[1], LinearMap(torch.eye(kept)))


def procrustes(x: Tensor, y: Tensor) -> Tensor:
    """(d, d) orthogonal W with ‖x W - y‖ smallest. Source: Schönemann 1966 (Psychometrika 31)."""
    u, _, vt = torch.linalg.svd(x.T @ y)
    rotation: Tensor = u @ vt
    return rotation


def _matched_centroids(
    x: Tensor, y: Tensor, clusters: int, starts: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    a, b = spherical_kmeans(x, clusters, random), spherical_kmeans(y, clusters, random)
    # A diagonal is 1 throughout: it adds the same to every order.
    first, second = ((side @ side.T).fill_diagonal_(0).double().numpy() for side in (a, b))
    (order,) = match(first, second, random, starts=starts, kept=1)
    return a, b[torch.from_numpy(order)]


def _means(rows: Tensor, chosen: Tensor) -> Tensor:
    """(n, d) mean of the rows that each line of ``chosen`` names, without a copy of all of them."""
    return F.embedding_bag(chosen, rows, mode="mean")
