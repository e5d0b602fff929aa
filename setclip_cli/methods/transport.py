"""CCA that also learns from rows without a partner: optimal transport says which of them could belong together.

With few pairs, a map that is fitted to the pairs alone knows little of how the two sides vary together. Rows without a
partner know more: if the pools hold the same things, a good map carries one pool onto the other. So the map and a soft
matching of the unpaired rows are made in turn, each from the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from setclip_cli.encoders import LinearMap
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 0.75  # of the unpaired rows in the covariances
ROUNDS = 10
ROWS = 3_000  # unpaired rows of each side that a round draws: bounds its time and memory
TEMPERATURE = 0.05  # of the matching
SWEEPS = 10  # of Sinkhorn in a round
RIDGE = 1.0  # against the mean eigenvalue of a covariance
START_WEIGHT = 0.3  # of the cosine of a start in the matching, where that of the maps has 1
LEAST_ROWS = 16  # of each side without a partner: fewer say nothing about a pool


class Covariances(NamedTuple):
    """Covariances of rows and their partners, a (p, p), a (q, q) and a (p, q) float64 matrix."""

    left: Tensor
    right: Tensor
    across: Tensor


def fit_transport(
    x: Tensor,
    y: Tensor,
    pairs: Tensor,
    *,
    seed: int,
    share: float = SHARE,
    rounds: int = ROUNDS,
    rows: int = ROWS,
    temperature: float = TEMPERATURE,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[LinearMap, LinearMap]:
    """Regularised CCA of the known pairs and of softly matched unpaired rows, in turn with their matching.

    C  <-  (1 - share) C_pairs + share Σ_ij P_ij (x_i - x̄)(y_j - ȳ)ᵀ, at first C_pairs
    P  <-  Sinkhorn(exp(cos(u_i, v_j) / temperature)), u and v the embeddings of rows without a partner by the CCA of C

    Covariances within a side are mixed of those of its known rows and of its other rows, in the same shares. With
    ``share`` = 0 this is the method ``cca``. A start joins the matching with ``START_WEIGHT``. Without pairs it makes
    the first matching alone, and all covariances are those of the other rows.

    Args:
        x: (n, p) transformed features of the left pool.
        y: (m, q) of the right one; the order of the rows means nothing.
        pairs: (b, 2) int64, rows of the known pairs, b > 1; with a start b may be 0.
        seed: Decides which unpaired rows each round draws.
        share: Of the unpaired rows in the covariances, in [0, 1). It is 0 if a side has fewer than ``LEAST_ROWS``.
        rounds: How often the matching is made.
        rows: Unpaired rows of each side in a round.
        temperature: Of the matching, above 0; smaller is sharper.
        start: (n, d) and (m, d) embeddings of both pools that are aligned already. They are centred here: two pools of
            one domain lie apart by a constant in the space of another.

    Returns:
        An encoder for each side, of min(p, q) dimensions.

    Sources: CCA with a ridge, Vinod 1976 (J. Econometrics 4); a map and a transport plan in turn, Wasserstein
        Procrustes, Grave et al. 2019, arXiv:1805.11222; plans by Sinkhorn, Cuturi 2013, arXiv:1306.0895.
    """
    known_x, known_y = x[pairs[:, 0]], y[pairs[:, 1]]
    free_x, free_y = _without(pairs[:, 0], len(x)), _without(pairs[:, 1], len(y))
    if start is not None and not len(pairs):
        centres, share = (x.mean(0), y.mean(0)), 1.0
        of_pairs = _of_pairs(x.new_zeros(1, x.shape[1]).double(), y.new_zeros(1, y.shape[1]).double())
    else:
        centres = known_x.mean(0), known_y.mean(0)
        of_pairs = _of_pairs(known_x.double(), known_y.double())
        if share == 0 or min(len(free_x), len(free_y)) < LEAST_ROWS:
            return canonical_maps(of_pairs, centres)
    # Within a round only the covariance across the sides changes, so the whitening is found once.
    whiteners = (
        whitener((1 - share) * of_pairs.left + share * within(x[free_x])),
        whitener((1 - share) * of_pairs.right + share * within(y[free_y])),
    )
    sides = [
        _Side(pool, free, centre, (pool[free].mean(0) - centre) @ white.float(), white.float())
        for pool, free, centre, white in zip((x, y), (free_x, free_y), centres, whiteners, strict=True)
    ]
    begun = None if start is None else [F.normalize(side - side.mean(0), dim=1) for side in start]
    random = generator(seed, "transport")
    of_known = whiteners[0].T @ of_pairs.across @ whiteners[1]
    across = of_known
    for number in range(rounds):
        drawn = [side.free[torch.randperm(len(side.free), generator=random)[:rows]] for side in sides]
        white = [side.whitened(chosen) for side, chosen in zip(sides, drawn, strict=True)]
        cosines = _cosines(white, across)
        if begun is not None:
            of_start = begun[0][drawn[0]] @ begun[1][drawn[1]].T
            has_map = number > 0 or share < 1
            cosines = (cosines + START_WEIGHT * of_start) / (1 + START_WEIGHT) if has_map else of_start
        plan = balanced_plan(cosines, temperature)
        centred = [rows_of - side.mean for rows_of, side in zip(white, sides, strict=True)]
        across = (1 - share) * of_known + share * (centred[0].T @ (plan @ centred[1])).double()
    return _maps(across, whiteners, centres)


class _Side(NamedTuple):
    """A pool, the numbers of its rows without a partner, and how rows are whitened."""

    pool: Tensor
    free: Tensor
    centre: Tensor
    mean: Tensor  # of the whitened rows without a partner
    white: Tensor

    def whitened(self, rows: Tensor) -> Tensor:
        return (self.pool[rows] - self.centre) @ self.white


def _cosines(white: list[Tensor], across: Tensor) -> Tensor:
    """Of whitened rows of both sides by the CCA of a whitened covariance across them.

    With across = U S Vᵀ, the embeddings are x U S and y V S = y acrossᵀ U. So U and S are all it takes, and
    across acrossᵀ = U S² Uᵀ has them. That is faster than the whole decomposition, and exact enough for a matching.
    """
    across = across.float()
    squares, u = torch.linalg.eigh(across @ across.T)
    left = F.normalize(white[0] @ (u * squares.clamp_min(0).sqrt()), dim=1)
    return left @ F.normalize(white[1] @ (across.T @ u), dim=1).T


def balanced_plan(cosines: Tensor, temperature: float) -> Tensor:
    """(n, m) plan of mass 1 that carries equal rows onto equal columns: diag(a) exp(cosines / temperature) diag(b).

    The same as `losses.sinkhorn`, without logarithms: cosines are within 2 of each other, so at this temperature
    nothing underflows, and a sweep costs two products with a vector.
    """
    kernel = ((cosines - cosines.amax(1, keepdim=True)) / temperature).exp_()
    columns = cosines.new_full((cosines.shape[1],), 1.0)
    for _ in range(SWEEPS):
        rows = 1 / (kernel @ columns)
        columns = 1 / (rows @ kernel)
    kernel *= rows[:, None]
    kernel *= columns / len(columns)
    return kernel


def canonical_maps(covariances: Covariances, centres: tuple[Tensor, Tensor]) -> tuple[LinearMap, LinearMap]:
    """CCA with a ridge of ``RIDGE`` mean eigenvalues; each direction counts by its correlation."""
    whiteners = whitener(covariances.left), whitener(covariances.right)
    return _maps(whiteners[0].T @ covariances.across @ whiteners[1], whiteners, centres)


def _maps(
    across: Tensor, whiteners: tuple[Tensor, Tensor], centres: tuple[Tensor, Tensor]
) -> tuple[LinearMap, LinearMap]:
    """Of the whitened covariance across the sides."""
    u, correlations, vt = torch.linalg.svd(across, full_matrices=False)
    return (
        LinearMap(whiteners[0] @ u * correlations, centres[0]),
        LinearMap(whiteners[1] @ vt.T * correlations, centres[1]),
    )


def whitener(covariance: Tensor) -> Tensor:
    """(p, p) inverse square root of a covariance, ridged by ``RIDGE`` mean eigenvalues."""
    values, vectors = torch.linalg.eigh(covariance)
    ridge = RIDGE * values.mean().clamp_min(1e-12)
    root: Tensor = vectors * (values.clamp_min(0) + ridge).rsqrt() @ vectors.T
    return root


def _of_pairs(left: Tensor, right: Tensor) -> Covariances:
    """Of rows of which those of one number are partners."""
    a, b = left - left.mean(0), right - right.mean(0)
    return Covariances(a.T @ a / len(a), b.T @ b / len(b), a.T @ b / len(a))


def within(pool: Tensor) -> Tensor:
    """(p, p) float64 covariance of a pool."""
    centred = pool - pool.mean(0)
    return (centred.T @ centred).double() / len(pool)


def _without(known: Tensor, count: int) -> Tensor:
    """The numbers of the rows that are not known."""
    free = torch.ones(count, dtype=torch.bool)
    free[known] = False
    return free.nonzero().squeeze(1)
