"""The method ``transport``: maps in closed form that find the one partner of an item, with no training step.

One map is CCA that optimal transport lets learn from rows without a partner. It is far ahead where both sides vary
together linearly and the pools hold each other's partners, as images and their captions do. The others are kernel
regression on the pairs and likeness to the known items. They are ahead where the sides do not vary together linearly,
as with proteins and what is written about them. How much each counts is measured on known pairs that are held out, so
nobody has to know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from setclip_cli.encoders import Composed, FeatureTransform, RelativeMap, side_by_side
from setclip_cli.encoders.usable import require_usable
from setclip_cli.errors import translated
from setclip_cli.methods.closed_form import OTHER_PAIRS, check_pairs
from setclip_cli.methods.held_out import Encoders, Fold, FoldFit, held_out, means_of_items, partner_scores
from setclip_cli.methods.kernel_regression import fit_kernel_regression, part_whitened
from setclip_cli.methods.no_pairs import require_matchable
from setclip_cli.methods.transport import START_WEIGHT, fit_transport
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.encoders import Encoder

CHOICE = {"rounds": 8, "rows": 1_500}  # of the fits that are compared; with 4 and 1,000 it took too few unpaired rows
POWERS = (2.0, 4.0)  # of the likeness: 2 is better beside few pairs, 4 with thousands (ASIF has 4)
LIKENESS_PAIRS = 8_000  # that the likeness compares with: bounds the width of embeddings
CENTRE_ROWS = 10_000  # whose mean likeness is subtracted: bounds memory


@dataclass(frozen=True)
class Shares:
    """What the choice is between.

    Attributes:
        unpaired: Share of the rows without a partner in the covariances of the CCA, see `fit_transport`.
        linear: Weight of the CCA in the cosine.
        kernel: Weight of the kernel regression.
        likeness: Weight of the likeness to known pairs.
        power: Of the likeness, see `RelativeMap`. A high one hears the nearest known items alone.
    """

    unpaired: float
    linear: float
    kernel: float
    likeness: float = 0.0
    power: float = POWERS[0]


UNPAIRED = (0.25, 0.75)
GRID = (
    *(Shares(unpaired, 1, kernel) for unpaired in UNPAIRED for kernel in (0.0, 0.5, 1.5, 4.0)),
    *(Shares(unpaired, 1, 4, 4) for unpaired in UNPAIRED),
    *(Shares(0.25, 0, 1, likeness, power) for likeness, power in ((0, 2), (1, 2), (1, 4), (2, 4))),
)
DEFAULT = Shares(0.75, 1, 0.5)


@dataclass(frozen=True)
class PartnerMaps:
    """What was fitted.

    Attributes:
        score: How well held-out partners were found with these shares: 1 is always first, about 0.1 is chance. None if
            there were too few pairs to hold any out.
        folds: The fits that the choice compared, with these shares: to each, some known pairs are new. Empty if there
            were too few pairs, or if the choice was made on other features than the maps read.
    """

    encoders: tuple[Encoder, Encoder]
    shares: Shares
    score: float | None
    folds: list[FoldFit] = field(default_factory=list)

    def findings(self) -> dict[str, float]:
        """By metric key."""
        found = {
            "transport/unpaired_share": self.shares.unpaired,
            "transport/linear_weight": self.shares.linear,
            "transport/kernel_weight": self.shares.kernel,
            "transport/likeness_weight": self.shares.likeness,
        }
        return found if self.score is None else found | {"transport/held_out_score": self.score}


@dataclass(frozen=True)
class Chosen:
    """The shares that were chosen, see `PartnerMaps`."""

    shares: Shares
    score: float | None = None
    folds: list[FoldFit] = field(default_factory=list)


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
    """Fits the maps and combines them: the cosine of two items is the weighted mean of the maps' cosines.

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
    chosen = Chosen(Shares(1.0, 1.0, 0.0))  # without pairs there is nothing to choose
    with translated(what, RuntimeError, found="cannot be fitted to them", fix=OTHER_PAIRS):
        if len(pairs):
            alone = fit_transport(x, y, pairs, seed=seed, share=0)
            require_usable(what, alone, (x, y), fix=OTHER_PAIRS)  # unpaired rows cannot tell what the pairs do not
            compared = (x, y) if chosen_on is None else _transformed(chosen_on, axes)
            item_of = pairs[:, 0] if items is None else items
            chosen = _choose(compared[0], compared[1], pairs, item_of, seed, begun)
        shares = chosen.shares
        parts: list[Encoders] = []
        if shares.linear:
            parts.append(fit_transport(x, y, pairs, seed=seed, share=shares.unpaired, start=begun))
        if shares.kernel:
            parts.append(fit_kernel_regression(x, y, pairs, seed=seed))
        if shares.likeness:
            parts.append(_likeness(x, y, pairs, shares.power, seed))
        maps = side_by_side(parts, [weight for weight in (shares.linear, shares.kernel, shares.likeness) if weight])
    require_usable(what, maps, (x, y), fix=OTHER_PAIRS)

    def of_features(maps: Encoders) -> Encoders:
        encoders: Encoders = Composed(transforms[0], maps[0]).eval(), Composed(transforms[1], maps[1]).eval()
        return encoders if start is None else side_by_side([encoders, start], [1.0, START_WEIGHT])

    folds = [replace(fold, encoders=of_features(fold.encoders)) for fold in chosen.folds if chosen_on is None]
    return PartnerMaps(of_features(maps), shares, chosen.score, folds)


def _transformed(sides: tuple[Tensor, Tensor], axes: int) -> tuple[Tensor, Tensor]:
    left, right = (FeatureTransform.fit(side, axes)(side) for side in sides)
    return left, right


def _choose(
    x: Tensor, y: Tensor, pairs: Tensor, items: Tensor, seed: int, start: tuple[Tensor, Tensor] | None
) -> Chosen:
    """The shares of the grid that find held-out partners best, and how well; ``DEFAULT`` if there are too few pairs.

    Keeping the default unless another leads by more than its standard error was tried: it kept too little of the
    regression for proteins (benchmarks/results.md).
    """
    scores = torch.full((len(GRID), len(pairs)), torch.nan)
    weights = torch.tensor([_weights(shares) for shares in GRID])
    whitened = None
    compared: list[tuple[Fold, list[Encoders]]] = []
    for fold in held_out(pairs, seed, items):
        hidden, known = fold
        whitened = whitened or (part_whitened(x), part_whitened(y))
        parts: list[Encoders] = [
            *(fit_transport(x, y, known, seed=seed, share=unpaired, start=start, **CHOICE) for unpaired in UNPAIRED),
            fit_kernel_regression(x, y, known, seed=seed, whitened=whitened),
            *(_likeness(x, y, known, power, seed) for power in POWERS),
        ]
        scores[:, hidden] = partner_scores(parts, weights, x, y, pairs[hidden], known, items[hidden])
        compared.append((fold, parts))
    if not compared:
        return Chosen(DEFAULT)
    means = [float(means_of_items(found, items).mean()) for found in scores]
    best = max(range(len(GRID)), key=means.__getitem__)
    shares = [(place, weight) for place, weight in enumerate(weights[best].tolist()) if weight]
    fits = [
        FoldFit(*fold, side_by_side([parts[place] for place, _ in shares], [weight for _, weight in shares]))
        for fold, parts in compared
    ]
    return Chosen(GRID[best], means[best], fits)


def _weights(shares: Shares) -> list[float]:
    """Of each part that the choice fits: the CCAs, the regression and the likenesses."""
    linear = [shares.linear * (shares.unpaired == unpaired) for unpaired in UNPAIRED]
    return [*linear, shares.kernel, *(shares.likeness * (shares.power == power) for power in POWERS)]


def _likeness(x: Tensor, y: Tensor, pairs: Tensor, power: float, seed: int) -> Encoders:
    """Both sides by their likeness to the same known pairs.

    Source: relative representations, Moschella et al. 2023, arXiv:2209.15430; with a power, ASIF, Norelli et al. 2023,
        arXiv:2210.01738.
    """
    kept = torch.randperm(len(pairs), generator=generator(seed, "likeness"))[:LIKENESS_PAIRS].sort().values
    left, right = (
        RelativeMap(side[rows], power).centre(side[:: math.ceil(len(side) / CENTRE_ROWS)])
        for side, rows in zip((x, y), pairs[kept].T, strict=True)
    )
    return left, right
