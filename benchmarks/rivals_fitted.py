"""Rivals in closed form: canonical similarity analysis and relative representations. See ``rivals``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.encoders import FeatureTransform

Embed = Callable[[Tensor], Tensor]
Embeds = tuple[Embed, Embed]

_RANK_TOLERANCE = 1e-7  # of the largest eigenvalue: below, the rounding of float32 features


def csa(
    left: Tensor,
    right: Tensor,
    pairs: Tensor,
    *,
    seed: int,
    directions: int = 200,
    axes: int = 0,
    ridge: float = 1e-4,
) -> Embeds:
    """Canonical similarity analysis: the cosine of canonical variates, weighted by their correlations.

        u = Aᵀ (x - x̄), v = Bᵀ (y - ȳ), cut to the first s directions; Aᵀ Σ_x A = Bᵀ Σ_y B = I, Aᵀ Σ_xy B = diag(ρ)
        score(x, y) = Σ_i ρ_i u_i v_i / (‖u‖ ‖v‖)

    The score is the dot product of (√ρ u/‖u‖, c, 0) and (√ρ v/‖v‖, 0, d); c and d make both of unit length.

    Args:
        left: (n, p) features.
        right: (m, q) features.
        pairs: (b, 2) rows of the known pairs.
        seed: Is not used: nothing is drawn.
        directions: s, how many canonical directions count.
        axes: Principal axes kept of each pool first; 0 keeps all of them.
        ridge: Added to each covariance, times its mean eigenvalue.

    Differences: the paper has ridge = 0 and no principal axes. With fewer pairs than features every correlation is
    then 1, and the directions say nothing. Both are settings here, so that the rival can be tuned where pairs are few.
    Features are scaled to unit length first. The paper chooses s for each data set.

    Source: Li et al. 2025 (ICLR), arXiv:2410.07610; canonical correlation by Hotelling 1936 (Biometrika 28).
    """
    _require_pairs(pairs)
    transforms = FeatureTransform.fit(left, axes), FeatureTransform.fit(right, axes)
    x, y = transforms[0](left[pairs[:, 0]]).double(), transforms[1](right[pairs[:, 1]]).double()
    means = x.mean(0), y.mean(0)
    a, b = x - means[0], y - means[1]
    white_a, white_b = _whitener(a, ridge), _whitener(b, ridge)
    u, correlations, vt = torch.linalg.svd(white_a.T @ (a.T @ b / len(a)) @ white_b, full_matrices=False)
    roots = correlations[:directions].clamp(0, 1).sqrt().float()
    weights = (white_a @ u)[:, :directions].float(), (white_b @ vt.T)[:, :directions].float()

    def embed(side: int) -> Embed:
        def embedded(features: Tensor) -> Tensor:
            variates = (transforms[side](features) - means[side].float()) @ weights[side]
            weighted = F.normalize(variates, dim=1) * roots
            filler = (1 - weighted.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
            empty = torch.zeros_like(filler)
            return torch.cat([weighted, *((filler, empty) if side == 0 else (empty, filler))], dim=1)

        return embedded

    return embed(0), embed(1)


def _whitener(rows: Tensor, ridge: float) -> Tensor:
    """(p, r) with Wᵀ (Σ + ridge) W = I on the r axes on which the centred rows differ."""
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    kept = values > _RANK_TOLERANCE * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    whitener: Tensor = vectors * (values + ridge * values.sum() / rows.shape[1]).rsqrt()
    return whitener


def relative(left: Tensor, right: Tensor, pairs: Tensor, *, seed: int, axes: int | None = None) -> Embeds:
    """Relative representations: each row by its cosines to the anchors, which are the items of the known pairs.

        r(x) = (cos(x, a_1), ..., cos(x, a_b)), r(y) = (cos(y, b_1), ..., cos(y, b_b)); score = cos(r(x), r(y))

    All cosines count, with no power and no threshold. r(x) is linear in x/‖x‖, so with more anchors than features r is
    expressed in an orthonormal basis of the space that both sides reach: the same scores from at most p + q numbers.

    Args:
        left: (n, p) features.
        right: (m, q) features.
        pairs: (b, 2) rows of the known pairs.
        seed: Is not used: nothing is drawn.
        axes: None takes the features as they are. A number scales them to unit length, centres them on the mean of
            their pool and keeps that many principal axes; 0 keeps all of them.

    Differences: the paper takes the features as they are and draws some hundred anchors. Here every pair is an anchor.

    Source: Moschella et al. 2023 (ICLR), arXiv:2209.15430.
    """
    _require_pairs(pairs)
    transforms: Embeds = (_identity, _identity)
    if axes is not None:
        transforms = FeatureTransform.fit(left, axes), FeatureTransform.fit(right, axes)
    anchors = [
        F.normalize(transform(pool[rows]), dim=1)
        for transform, pool, rows in zip(transforms, (left, right), pairs.T, strict=True)
    ]
    if len(pairs) > sum(side.shape[1] for side in anchors):
        basis, _ = torch.linalg.qr(torch.cat(anchors, dim=1))
        anchors = [basis.T @ side for side in anchors]

    def embed(side: int) -> Embed:
        def embedded(features: Tensor) -> Tensor:
            return F.normalize(F.normalize(transforms[side](features), dim=1) @ anchors[side].T, dim=1)

        return embedded

    return embed(0), embed(1)


def _identity(features: Tensor) -> Tensor:
    return features


def _require_pairs(pairs: Tensor) -> None:
    if len(pairs) < 2:
        raise ValueError(f"this rival learns from known pairs and needs 2 or more; got {len(pairs)}")
