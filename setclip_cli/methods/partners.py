"""The method ``transport``: two maps in closed form that find the one partner of an item, with no training step.

One map is CCA that optimal transport lets learn from rows without a partner. It is far ahead where both sides vary
together linearly and the pools hold each other's partners, as images and their captions do. The other is kernel
regression on the pairs. It is ahead where they do not, as with proteins and what is written about them. How much each
counts is measured on known pairs that are held out, so nobody has to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch

from setclip_cli.encoders import Composed, Concatenated, FeatureTransform
from setclip_cli.encoders.usable import require_usable
from setclip_cli.errors import translated
from setclip_cli.methods.closed_form import OTHER_PAIRS, check_pairs
from setclip_cli.methods.held_out import FOLDS, folds, means_of_items, partner_scores
from setclip_cli.methods.kernel_regression import fit_kernel_regression
from setclip_cli.methods.no_pairs import require_matchable
from setclip_cli.methods.transport import START_WEIGHT, fit_transport

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.encoders import Encoder

CHOICE = {"rounds": 5, "rows": 1_500}  # of the fits that the choice compares: their order needs no more
LEAST_ITEMS = 20  # known pairs of fewer items are too few to hold any out


@dataclass(frozen=True)
class Shares:
    """What the choice is between.

    Attributes:
        unpaired: Share of the rows without a partner in the covariances of the CCA, see `fit_transport`.
        kernel: Weight of the kernel regression in the cosine, where the CCA has 1.
    """

    unpaired: float
    kernel: float


UNPAIRED = (0.25, 0.75)
KERNEL = (0.0, 0.5, 1.5, 4.0)
DEFAULT = Shares(0.75, 0.5)


@dataclass(frozen=True)
class PartnerMaps:
    """What was fitted.

    Attributes:
        score: How well held-out partners were found with these shares: 1 is always first, about 0.1 is chance. None if
            there were too few pairs to hold any out.
    """

    encoders: tuple[Encoder, Encoder]
    shares: Shares
    score: float | None

    def findings(self) -> dict[str, float]:
        """By metric key."""
        found = {"transport/unpaired_share": self.shares.unpaired, "transport/kernel_weight": self.shares.kernel}
        return found | ({} if self.score is None else {"transport/held_out_score": self.score})


def fit_partner_maps(
    left: Tensor,
    right: Tensor,
    pairs: Tensor,
    *,
    axes: int,
    seed: int,
    items: Tensor | None = None,
    chosen_on: tuple[Tensor, Tensor] | None = None,
    start: tuple[Encoder, Encoder] | None = None,
) -> PartnerMaps:
    """Fits both maps and combines them: the cosine of two items is the weighted mean of the maps' cosines.

    The shares are those of the grid that find held-out partners best, or ``DEFAULT`` with fewer than ``LEAST_ITEMS``.
    Keeping the default unless another leads by more than its standard error was tried: it kept too little of the
    regression for proteins (benchmarks/results.md).

    Args:
        left: (n, p) features of the left pool.
        right: (m, q) of the right one. Row order means nothing.
        pairs: (b, 2) int64, rows of the known pairs, of two or more items on either side.
        axes: Principal axes kept of each side; 0 keeps all.
        seed: Decides the folds and the rows that are drawn.
        items: (b,) int64: for each pair the number of its item, which is held out as a whole. None if a left row with
            all its pairs is an item.
        chosen_on: Features of the same rows on which the shares are chosen; None for ``left`` and ``right``. Features
            that were trained on all pairs find held-out partners in any case, so they cannot tell.
        start: Encoders of the features that are aligned already. They join the matching and stay beside the maps, with
            ``START_WEIGHT`` in the cosine. Pairs of fewer than two items are not used then.

    Raises:
        SetClipError: too few pairs, pairs that name rows the pools do not have, or pairs whose items do not differ
            enough to fit anything.
    """
    begun = None
    if start is not None:
        with torch.no_grad():
            begun = start[0](left), start[1](right)
        pairs = pairs if min(len(side.unique()) for side in pairs.T) > 1 else pairs[:0]
    if start is None or len(pairs):
        check_pairs("transport", left, right, pairs)
    else:
        require_matchable(len(left), len(right))
    transforms = FeatureTransform.fit(left, axes), FeatureTransform.fit(right, axes)
    x, y = transforms[0](left), transforms[1](right)
    what = f"method 'transport' on {len(pairs)} pairs"
    shares, score = Shares(1.0, 0.0), None  # without pairs there are the unpaired rows alone, and nothing to choose
    with translated(what, RuntimeError, found="cannot be fitted to them", fix=OTHER_PAIRS):
        if len(pairs):
            alone = fit_transport(x, y, pairs, seed=seed, share=0)
            require_usable(what, alone, (x, y), fix=OTHER_PAIRS)  # unpaired rows cannot tell what the pairs do not
            compared = (x, y) if chosen_on is None else _transformed(chosen_on, axes)
            item_of = pairs[:, 0] if items is None else items
            shares, score = _choose(compared[0], compared[1], pairs, item_of, seed, begun)
        linear = fit_transport(x, y, pairs, seed=seed, share=shares.unpaired, start=begun)
        kernel = fit_kernel_regression(x, y, pairs, seed=seed) if shares.kernel else linear
        maps = _weighted(linear, kernel, shares.kernel)
    require_usable(what, maps, (x, y), fix=OTHER_PAIRS)
    encoders: tuple[Encoder, Encoder] = (
        Composed(transforms[0], maps[0]).eval(),
        Composed(transforms[1], maps[1]).eval(),
    )
    return PartnerMaps(encoders if start is None else _weighted(encoders, start, START_WEIGHT), shares, score)


def _transformed(sides: tuple[Tensor, Tensor], axes: int) -> tuple[Tensor, Tensor]:
    left, right = (FeatureTransform.fit(side, axes)(side) for side in sides)
    return left, right


def _choose(
    x: Tensor, y: Tensor, pairs: Tensor, items: Tensor, seed: int, start: tuple[Tensor, Tensor] | None
) -> tuple[Shares, float | None]:
    """The shares, and how well they found held-out partners."""
    items = torch.unique(items, return_inverse=True)[1]
    fold = folds(pairs, seed, items)
    if int(items.max()) + 1 < LEAST_ITEMS or len(set(fold.tolist())) < FOLDS:
        return DEFAULT, None
    scores = {Shares(*values): torch.zeros(len(pairs)) for values in product(UNPAIRED, KERNEL)}
    for held_out in range(FOLDS):
        hidden = fold == held_out
        known = pairs[~hidden]
        kernel = fit_kernel_regression(x, y, known, seed=seed)
        linear = {
            share: fit_transport(x, y, known, seed=seed, share=share, start=start, **CHOICE) for share in UNPAIRED
        }
        for shares, found in scores.items():
            maps = _weighted(linear[shares.unpaired], kernel, shares.kernel)
            found[hidden] = partner_scores(maps, x, y, pairs[hidden], known, items[hidden])
    means = {shares: float(means_of_items(found, items).mean()) for shares, found in scores.items()}
    best = max(means, key=lambda shares: means[shares])
    return best, means[best]


def _weighted(
    encoders: tuple[Encoder, Encoder], others: tuple[Encoder, Encoder], weight: float
) -> tuple[Encoder, Encoder]:
    """Both side by side: the first have weight 1 in the cosine."""
    if not weight:
        return encoders
    left, right = (Concatenated(parts, [1.0, weight]).eval() for parts in zip(encoders, others, strict=True))
    return left, right
