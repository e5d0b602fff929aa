"""The method ``transport``: maps in closed form that find the one partner of an item, with no training step.

One map is CCA that optimal transport lets learn from rows without a partner. It is far ahead where both sides vary
together linearly and the pools hold each other's partners, as images and their captions do. The others are kernel
regression on the pairs and likeness to the known items. They are ahead where the sides do not vary together linearly,
as with proteins and what is written about them. How much each counts is measured on known pairs that are held out, so
nobody has to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from setclip_cli.encoders import Composed, Concatenated, FeatureTransform, RelativeMap
from setclip_cli.encoders.usable import require_usable
from setclip_cli.errors import translated
from setclip_cli.methods.closed_form import OTHER_PAIRS, check_pairs
from setclip_cli.methods.held_out import Encoders, held_out, means_of_items, partner_scores
from setclip_cli.methods.kernel_regression import fit_kernel_regression, part_whitened
from setclip_cli.methods.no_pairs import require_matchable
from setclip_cli.methods.transport import START_WEIGHT, fit_transport
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.encoders import Encoder

CHOICE = {"rounds": 8, "rows": 1_500}  # of the fits that are compared; with 4 and 1,000 it took too few unpaired rows
RELATIVE_PAIRS = 1_000  # that the likeness compares with: bounds the width of embeddings
RELATIVE_POWER = 2.0  # ASIF's 4 is as good alone, 2 is better beside the regression


@dataclass(frozen=True)
class Shares:
    """What the choice is between.

    Attributes:
        unpaired: Share of the rows without a partner in the covariances of the CCA, see `fit_transport`.
        kernel: Weight of the kernel regression in the cosine, where the CCA has 1.
        relative: Weight of the likeness to known pairs.
    """

    unpaired: float
    kernel: float
    relative: float

    def weights(self) -> list[float]:
        """Of the CCA, the regression and the likeness."""
        return [1.0, self.kernel, self.relative]


UNPAIRED = (0.25, 0.75)
OTHERS = ((0.0, 0.0), (0.5, 0.0), (1.5, 0.0), (4.0, 0.0), (1.5, 1.5), (4.0, 4.0))  # kernel and relative
DEFAULT = Shares(0.75, 0.5, 0.0)


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
        found = {
            "transport/unpaired_share": self.shares.unpaired,
            "transport/kernel_weight": self.shares.kernel,
            "transport/relative_weight": self.shares.relative,
        }
        return found if self.score is None else found | {"transport/held_out_score": self.score}


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
    shares, score = (
        Shares(1.0, 0.0, 0.0),
        None,
    )  # without pairs there are the unpaired rows alone, and nothing to choose
    with translated(what, RuntimeError, found="cannot be fitted to them", fix=OTHER_PAIRS):
        if len(pairs):
            alone = fit_transport(x, y, pairs, seed=seed, share=0)
            require_usable(what, alone, (x, y), fix=OTHER_PAIRS)  # unpaired rows cannot tell what the pairs do not
            compared = (x, y) if chosen_on is None else _transformed(chosen_on, axes)
            item_of = pairs[:, 0] if items is None else items
            shares, score = _choose(compared[0], compared[1], pairs, item_of, seed, begun)
        parts: list[Encoders] = [fit_transport(x, y, pairs, seed=seed, share=shares.unpaired, start=begun)]
        parts += [fit_kernel_regression(x, y, pairs, seed=seed)] if shares.kernel else []
        parts += [_likeness(x, y, pairs, seed)] if shares.relative else []
        maps = _joined(parts, [weight for weight in shares.weights() if weight])
    require_usable(what, maps, (x, y), fix=OTHER_PAIRS)
    encoders: Encoders = Composed(transforms[0], maps[0]).eval(), Composed(transforms[1], maps[1]).eval()
    return PartnerMaps(encoders if start is None else _joined([encoders, start], [1.0, START_WEIGHT]), shares, score)


def _transformed(sides: tuple[Tensor, Tensor], axes: int) -> tuple[Tensor, Tensor]:
    left, right = (FeatureTransform.fit(side, axes)(side) for side in sides)
    return left, right


def _choose(
    x: Tensor, y: Tensor, pairs: Tensor, items: Tensor, seed: int, start: tuple[Tensor, Tensor] | None
) -> tuple[Shares, float | None]:
    """The shares of the grid that find held-out partners best, and how well; ``DEFAULT`` if there are too few pairs.

    Keeping the default unless another leads by more than its standard error was tried: it kept too little of the
    regression for proteins (benchmarks/results.md).
    """
    grid = [Shares(unpaired, *others) for unpaired in UNPAIRED for others in OTHERS]
    scores = torch.full((len(grid), len(pairs)), torch.nan)
    whitened = None
    for hidden, known in held_out(pairs, seed, items):
        whitened = whitened or (part_whitened(x), part_whitened(y))
        linear = [fit_transport(x, y, known, seed=seed, share=unpaired, start=start, **CHOICE) for unpaired in UNPAIRED]
        kernel = fit_kernel_regression(x, y, known, seed=seed, whitened=whitened)
        parts = [*linear, kernel, _likeness(x, y, known, seed)]
        weights = torch.tensor(
            [
                [float(shares.unpaired == unpaired) for unpaired in UNPAIRED] + [shares.kernel, shares.relative]
                for shares in grid
            ]
        )
        scores[:, hidden] = partner_scores(parts, weights, x, y, pairs[hidden], known, items[hidden])
    if bool(scores.isnan().all()):
        return DEFAULT, None
    means = [float(means_of_items(found, items).mean()) for found in scores]
    best = max(range(len(grid)), key=means.__getitem__)
    return grid[best], means[best]


def _likeness(x: Tensor, y: Tensor, pairs: Tensor, seed: int) -> Encoders:
    """Both sides by their likeness to the same known pairs.

    Source: relative representations, Moschella et al. 2023, arXiv:2209.15430; with a power, ASIF, Norelli et al. 2023,
        arXiv:2210.01738.
    """
    kept = torch.randperm(len(pairs), generator=generator(seed, "likeness"))[:RELATIVE_PAIRS].sort().values
    anchors = pairs[kept]
    return RelativeMap(x[anchors[:, 0]], RELATIVE_POWER), RelativeMap(y[anchors[:, 1]], RELATIVE_POWER)


def _joined(parts: list[Encoders], weights: list[float]) -> Encoders:
    if len(parts) == 1:
        return parts[0]
    left, right = (Concatenated(encoders, weights).eval() for encoders in zip(*parts, strict=True))
    return left, right
