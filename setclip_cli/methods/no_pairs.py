"""Alignment without a single pair: match the clusters of both pools by how similar they are to each other, many times.

One matching of k clusters by their mutual similarities is as often wrong as right, and its score does not tell which.
Wrong matchings are wrong in different ways; right ones agree. So many are made, with several k and several draws. Each
implies similarities between the two sides, and it counts by how well these agree, on average, with those of the other
matchings. It takes hundreds: with a third of them, in one of six draws most matchings agreed on a wrong answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.encoders import Composed, Concatenated, Encoder, FeatureTransform, RelativeMap
from setclip_cli.encoders.usable import require_usable
from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]

CLUSTERS = (8, 10, 12, 14, 16, 20, 24, 30)
DRAWS = 18  # clusterings of each pool for each k
STARTS = 12  # of the assignment search, for each clustering
KEPT = 3  # best matchings of each
AXES = 64
POOL_ROWS = 4000  # rows that are clustered; larger pools are sampled
PROBES = 250  # rows of each side on which matchings are compared
ENCODED = 48  # matchings that the encoders hold: those that agree most
_AGREEMENT_POWER = 4  # a matching counts by this power of its mean agreement


@dataclass(frozen=True)
class UnpairedAlignment:
    """Encoders that were fitted without pairs, and how well the matchings behind them agree.

    Attributes:
        encoders: Left and right.
        agreement: Mean correlation between the cross-modal similarities of two matchings.
        candidates: Number of matchings that were compared.
        kept: Number of matchings that the encoders hold.
    """

    encoders: tuple[Encoder, Encoder]
    agreement: float
    candidates: int
    kept: int

    def warnings(self) -> list[str]:
        """What a user should know before trusting the result.

        The assumption is always stated: on real data neither the sizes of matched clusters nor the agreement could tell
        equal class mixes from unequal ones, or a right answer from a wrong one.
        """
        return [
            f"no pairs were used: of {self.candidates} cluster matchings, the {self.kept} that agree most with all the "
            f"others were kept; any two agree by {self.agreement:.2f} on average, and 1 is full agreement",
            "matching without pairs assumes that both sides hold the same classes in similar shares; this cannot be "
            "checked without labels, and matchings may agree on a wrong answer; a few pairs show it and help most",
        ]


@dataclass(frozen=True)
class _Matching:
    left: RelativeMap
    right: RelativeMap


def require_matchable(left: int, right: int) -> None:
    """Raises SetClipError if pools of these many rows are too small to be clustered."""
    if min(left, right) < 2 * CLUSTERS[0]:
        raise SetClipError(
            f"pairs = 0: pools of {left} and {right} rows are too small to match without pairs",
            fix=f"give at least {2 * CLUSTERS[0]} rows of each modality, or a few pairs",
        )


def align_without_pairs(left: Tensor, right: Tensor, *, seed: int, axes: int = AXES) -> UnpairedAlignment:
    """Aligns two pools of frozen features without pairs.

    Args:
        left: (n, p) frozen features.
        right: (m, q) frozen features. Row order means nothing.
        seed: Decides the clusterings and the searches.
        axes: Principal axes kept of each side; 0 keeps all.

    Raises:
        SetClipError: a pool too small to be clustered.
    """
    require_matchable(len(left), len(right))
    transforms = FeatureTransform.fit(left, axes), FeatureTransform.fit(right, axes)
    random = np.random.default_rng(seed)
    x, y = (
        _some_rows(transform(pool).cpu(), POOL_ROWS, random)
        for transform, pool in zip(transforms, (left, right), strict=True)
    )
    sizes = [k for k in CLUSTERS if 2 * k <= min(len(x), len(y))]
    candidates = [matching for k in sizes for _ in range(DRAWS) for matching in _matchings(x, y, k, random)]
    agreements = _agreements(candidates, _some_rows(x, PROBES, random), _some_rows(y, PROBES, random))
    kept = agreements.argsort(descending=True, stable=True)[:ENCODED].tolist()
    shares = (agreements[kept].clamp_min(1e-6) ** _AGREEMENT_POWER).tolist()
    encoders = (
        Composed(transforms[0], Concatenated([candidates[index].left for index in kept], shares)),
        Composed(transforms[1], Concatenated([candidates[index].right for index in kept], shares)),
    )
    require_usable(
        "pairs = 0", encoders, (left.cpu(), right.cpu()), fix="give rows whose features differ, or a few known pairs"
    )
    return UnpairedAlignment(
        encoders,
        agreement=float(agreements.mean()),
        candidates=len(candidates),
        kept=len(kept),
    )


def _matchings(x: Tensor, y: Tensor, k: int, random: np.random.Generator) -> list[_Matching]:
    """The best few ways to match one clustering of x to one of y."""
    a, b = spherical_kmeans(x, k, random), spherical_kmeans(y, k, random)
    geometry = _rank_gaussian(a @ a.T), _rank_gaussian(b @ b.T)
    return [
        _Matching(RelativeMap(a).centre(x), RelativeMap(b[torch.from_numpy(order)]).centre(y))
        for order in match(*geometry, random, starts=STARTS, kept=KEPT)
    ]


def spherical_kmeans(rows: Tensor, k: int, random: np.random.Generator, *, iterations: int = 30) -> Tensor:
    """k unit centroids (k, d) by cosine, from a k-means++ start.

    Source: Dhillon & Modha 2001 (Machine Learning 42); start of Arthur & Vassilvitskii 2007 (SODA).
    """
    unit = F.normalize(rows, dim=1)
    chosen = [int(random.integers(len(unit)))]
    distance = torch.full((len(unit),), torch.inf)
    for _ in range(k - 1):
        distance = torch.minimum(distance, 1 - unit @ unit[chosen[-1]]).clamp_min(0)
        share = distance.double().numpy() + 1e-12
        chosen.append(int(random.choice(len(unit), p=share / share.sum())))
    return settled_centroids(unit, unit[chosen], iterations=iterations)


def settled_centroids(rows: Tensor, centroids: Tensor, *, iterations: int = 30) -> Tensor:
    """Where k-means by cosine takes unit centroids (k, d) on unit rows (n, d), in the order in which they were given.

    A centroid that no row is nearest to stays where it is.
    """
    for _ in range(iterations):
        nearest = (rows @ centroids.T).argmax(1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, rows)
        empty = torch.bincount(nearest, minlength=len(centroids)) == 0
        centroids = torch.where(empty[:, None], centroids, F.normalize(sums, dim=1))
    return centroids


def match(a: Matrix, b: Matrix, random: np.random.Generator, *, starts: int, kept: int) -> list[npt.NDArray[np.int64]]:
    """The best distinct orders o found that make Σ_ij a_ij b_{o_i o_j} large, best first. Diagonals of a and b are 0.

    Frank-Wolfe on doubly stochastic matrices from random starts, by SciPy; then the best swap of two while one helps.
    SciPy's own swaps, "2opt", take the first that helps and 2.5 times as long for the whole.

    Source: Vogelstein et al. 2015, fast approximate quadratic programming (PLOS ONE 10).
    """
    from scipy.optimize import quadratic_assignment  # here: it takes long to import, and only this method needs it

    found: dict[tuple[int, ...], float] = {}
    for _ in range(starts):
        result = quadratic_assignment(a, b, options={"maximize": True, "P0": "randomized", "rng": random})
        order = _swapped(a, b, result.col_ind)
        found[tuple(order.tolist())] = float((a * b[np.ix_(order, order)]).sum())
    best = sorted(found, key=lambda order: -found[order])[:kept]
    return [np.array(order) for order in best]


def _swapped(a: Matrix, b: Matrix, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Swaps the two whose swap helps most, until none does."""
    order = order.copy()
    for _ in range(len(a) ** 2):
        placed = b[np.ix_(order, order)]
        cross = a @ placed
        own = np.diagonal(cross)
        # gain of swapping i and j, over both triangles, less what the pair (i, j) itself would count twice
        gain = 2 * (cross + cross.T - own[:, None] - own[None, :] + 2 * a * placed)
        i, j = np.unravel_index(np.argmax(gain), gain.shape)
        if gain[i, j] <= 1e-9 or i == j:
            break
        order[[i, j]] = order[[j, i]]
    return order


def _rank_gaussian(similarities: Tensor) -> Matrix:
    """Off-diagonal similarities replaced by the normal quantiles of their ranks; the diagonal is 0."""
    from scipy.stats import norm, rankdata  # here: see `match`

    k = len(similarities)
    upper = np.triu_indices(k, 1)
    ranks = rankdata(similarities.double().numpy()[upper])
    scores = np.zeros((k, k))
    scores[upper] = norm.ppf((ranks - 0.5) / len(ranks))
    return scores + scores.T


def _agreements(candidates: list[_Matching], x: Tensor, y: Tensor) -> Tensor:
    """(candidates,) float64: mean correlation of each matching's (x, y) similarities with those of the others."""
    similarities = torch.stack([(each.left(x) @ each.right(y).T).flatten() for each in candidates])
    similarities = F.normalize(similarities - similarities.mean(1, keepdim=True), dim=1)
    gram = (similarities @ similarities.T).double()
    return (gram.sum(1) - gram.diagonal()) / max(1, len(candidates) - 1)


def _some_rows(rows: Tensor, count: int, random: np.random.Generator) -> Tensor:
    if len(rows) <= count:
        return rows
    return rows[torch.from_numpy(np.sort(random.choice(len(rows), count, replace=False)))]
