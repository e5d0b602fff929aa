"""Which known pairs are likely wrong: each pair is judged by the other pairs alone, in closed form.

Two things speak for a pair. From the other items, a regression and a smoother say what the partner of an item should
look like, in both directions; a right partner is nearer to that than other known partners are. And the texts of one
item are alike: a text that is unlike the others of its item is likely another item's. What a wrong pair would score is
known, since every item can be put beside the partners of every other item. So the scores of the pairs are a mixture of
that known distribution and another one, and the mixture says how probable it is that a pair is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from setclip_cli.encoders import FeatureTransform
from setclip_cli.methods.kernel_regression import part_whitened
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.encoders import LinearMap

LEAST_ITEMS = 20  # fewer say too little about each other
LIKELY = 0.5  # probability from which a pair is called likely wrong
AXES = 64  # principal axes of each side
WIDTH = 0.6  # of the kernel: wider than that of the method, for the pairs are few and some are wrong
RIDGE = 0.5  # of the regression
POWER = 2.0  # of the likeness
ROUNDS = 2  # a likely wrong pair counts less in the judgement of the others from the second round on
BLOCK = 2_000  # pairs that judge each other: bounds time and memory
FIT_ROWS = 10_000  # of a pool, for its axes
TEXTS = 3  # an item's texts from which they can be compared: of two that differ, either may be wrong
LEAST_WEIGHT = 1e-3  # of a pair in the regression


@dataclass(frozen=True)
class Suspects:
    """What is known of each pair. All tensors are (b,), in the order of the pairs.

    Attributes:
        probability: That the pair is wrong, from 0 to 1.
        of_item: That the item as a whole has the partners of another one; the evidence across the sides.
        of_texts: That this partner is unlike the others of its item; 0 for items with fewer than ``TEXTS``.
        better_items: How many of the ``others`` known items fit the partners of this item better than it does itself.
        better_partners: How many known items have partners that fit this item better than its own do.
        others: Known items that each pair was compared with.
        nearest: The known item, by the number of one of its pairs, whose left side fits the partners of this item best.
        expected: The number of wrong pairs that the probabilities add up to.
        interval: 90% of it over samples of the items. It does not know that right pairs may look wrong.
    """

    probability: Tensor
    of_item: Tensor
    of_texts: Tensor
    better_items: Tensor
    better_partners: Tensor
    others: Tensor
    nearest: Tensor
    expected: float
    interval: tuple[float, float]

    def likely(self) -> Tensor:
        """(k,) int64: the pairs that are likely wrong, the most probable first; of equals the first pair."""
        order = self.order()
        return order[self.probability[order] >= LIKELY]

    def order(self) -> Tensor:
        """(b,) int64: all pairs, the most suspect first; of equals the first pair."""
        return torch.argsort(self.probability, descending=True, stable=True)


class _Seen(NamedTuple):
    """Known pairs of one block: transformed rows, targets of the regressions, and the number of each pair's item."""

    x: Tensor
    y: Tensor
    targets_x: Tensor
    targets_y: Tensor
    items: Tensor  # from 0, without gaps
    rest_x: Tensor  # targets of rows of the pools, to compare with
    rest_y: Tensor


class Sides(NamedTuple):
    """Both pools as the judgement reads them."""

    pools: tuple[Tensor, Tensor]
    transforms: tuple[FeatureTransform, FeatureTransform]
    whitened: tuple[LinearMap, LinearMap]
    rest: tuple[Tensor, Tensor]  # targets of some rows


def suspect_scores(x: Tensor, y: Tensor, pairs: Tensor, items: Tensor, *, seed: int = 0) -> Suspects:
    """Judges each known pair by the other ones.

    Args:
        x: (n, p) frozen features of the left pool.
        y: (m, q) of the right one. Row order means nothing.
        pairs: (b, 2) int64, rows of the known pairs.
        items: (b,) int64, the number of each pair's item. An item is left out with all its pairs.
        seed: Decides which pairs judge each other if there are more than ``BLOCK``, and the bootstrap.

    Raises:
        ValueError: fewer than ``LEAST_ITEMS`` items.

    Sources: leave-one-out residuals of kernel ridge regression in closed form, Cook & Weisberg 1982 (Residuals and
        Influence in Regression), by blocks; mixtures with a known null and local false discovery rates, Efron et al.
        2001 (JASA 96); noisy pairs by their loss, Arazo et al. 2019, arXiv:1904.11238.
    """
    return suspects_among(read_sides(x, y), pairs, items, seed=seed)


@torch.no_grad()
def read_sides(x: Tensor, y: Tensor) -> Sides:
    """What `suspects_among` needs of the pools; the pairs have no part in it."""
    some = _spread(x, FIT_ROWS), _spread(y, FIT_ROWS)  # bounds time and memory
    transforms = FeatureTransform.fit(some[0], AXES), FeatureTransform.fit(some[1], AXES)
    left, right = (fit(rows).float() for fit, rows in zip(transforms, some, strict=True))
    whitened = part_whitened(left), part_whitened(right)
    rest = whitened[0].project(_spread(left, BLOCK)), whitened[1].project(_spread(right, BLOCK))
    return Sides((x, y), transforms, whitened, rest)


@torch.no_grad()
def suspects_among(sides: Sides, pairs: Tensor, items: Tensor, *, seed: int = 0) -> Suspects:
    """`suspect_scores` of pools that are read already."""
    numbers: Tensor = torch.unique(items, return_inverse=True)[1]
    count = int(numbers.max()) + 1 if len(numbers) else 0
    if count < LEAST_ITEMS:
        raise ValueError(f"suspect_scores needs {LEAST_ITEMS} items or more; got {count}")
    b = len(pairs)
    found = {name: torch.zeros(b) for name in ("of_item", "of_texts", "better_items", "better_partners", "others")}
    nearest = torch.zeros(b, dtype=torch.int64)
    for chosen in _blocks(numbers, seed):
        x, y = (
            fit(pool[rows]).float()
            for fit, pool, rows in zip(sides.transforms, sides.pools, pairs[chosen].T, strict=True)
        )
        targets = sides.whitened[0].project(x), sides.whitened[1].project(y)
        judged = _judge(_Seen(x, y, *targets, torch.unique(numbers[chosen], return_inverse=True)[1], *sides.rest))
        nearest[chosen] = chosen[judged.pop("nearest")]
        for name, values in judged.items():
            found[name][chosen] = values
    probability = 1 - (1 - found["of_item"]) * (1 - found["of_texts"])
    return Suspects(
        probability=probability,
        of_item=found["of_item"],
        of_texts=found["of_texts"],
        better_items=found["better_items"].long(),
        better_partners=found["better_partners"].long(),
        others=found["others"].long(),
        nearest=nearest,
        expected=float(probability.sum()),
        interval=_interval(probability, numbers, seed),
    )


def _spread(pool: Tensor, most: int) -> Tensor:
    """Evenly spaced rows of a pool."""
    return pool[:: math.ceil(len(pool) / most)]


def _blocks(items: Tensor, seed: int) -> list[Tensor]:
    """Pairs of whole items, some ``BLOCK`` at a time, at random."""
    count = math.ceil(len(items) / BLOCK)
    if count == 1:
        return [torch.arange(len(items))]
    of_item = torch.randperm(int(items.max()) + 1, generator=generator(seed, "suspects")) % count
    return [(of_item[items] == number).nonzero().squeeze(1) for number in range(count)]


def _judge(seen: _Seen) -> dict[str, Tensor]:
    """Of one block: each round leaves out each item, and from the second on hears likely wrong pairs less."""
    of_texts = _unlike_their_own(seen)
    probability = of_texts
    of_item = torch.zeros(len(seen.items))
    fits = torch.zeros(0)
    for _ in range(ROUNDS):
        fits = _fits(seen, (1 - probability).clamp_min(LEAST_WEIGHT))
        of_item = _wrong(fits)[seen.items]
        probability = 1 - (1 - of_item) * (1 - of_texts)
    own = fits.diagonal()
    columns = fits.clone()
    columns.fill_diagonal_(-torch.inf)
    places = torch.arange(len(seen.items))
    first = torch.full((len(own),), len(places)).scatter_reduce_(0, seen.items, places, "amin")
    others = torch.full_like(of_item, len(own) - 1)
    return {
        "of_item": of_item,
        "of_texts": of_texts,
        "better_items": (fits > own).sum(0)[seen.items].float(),
        "better_partners": (fits > own[:, None]).sum(1)[seen.items].float(),
        "others": others,
        "nearest": first[columns.argmax(0)][seen.items],
    }


def _fits(seen: _Seen, weights: Tensor) -> Tensor:
    """(k, k) how well the left side of an item fits the partners of an item: the mean of all predictions, in units of
    the spread over the pool.

    Each prediction is made without the pairs of the item that it is made for.
    """
    across = []
    for rows, targets, rest, turned in (
        (seen.x, seen.targets_y, seen.rest_y, False),
        (seen.y, seen.targets_x, seen.rest_x, True),
    ):
        for predicted in (
            left_out_regression(rows, targets, seen.items, weights),
            left_out_smoother(rows, targets, seen.items, weights),
        ):
            unit = F.normalize(predicted, dim=1)
            of_pool = unit @ rest.T
            scores = (unit @ targets.T - of_pool.mean(1, keepdim=True)) / of_pool.std(1, keepdim=True).clamp_min(1e-9)
            means = _of_items(_of_items(scores, seen.items).T, seen.items).T
            across.append(means.T if turned else means)
    return torch.stack(across).mean(0)


def left_out_regression(rows: Tensor, targets: Tensor, items: Tensor, weights: Tensor) -> Tensor:
    """(b, d) the target of each row by kernel ridge regression on the pairs of all other items.

    With A = K + ridge diag(1/w) and e = the residuals of the pairs of an item when it is left out,
    e = ([A⁻¹] over the item)⁻¹ [A⁻¹ T] over the item, so one inverse serves all items.

    Args:
        rows: (b, p) any length.
        targets: (b, d).
        items: (b,) int64 from 0, without gaps.
        weights: (b,) above 0: how much each pair counts.
    """
    unit = F.normalize(rows, dim=1).double()
    kernel = ((unit @ unit.T - 1) / WIDTH).exp_()
    kernel.diagonal().add_(RIDGE / weights.double())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
    fitted = inverse @ targets.double()
    residuals = torch.empty_like(fitted)
    order = torch.argsort(items, stable=True)
    for own in torch.split(order, items.bincount().tolist()):
        residuals[own] = torch.linalg.solve(inverse[own][:, own], fitted[own])
    return (targets.double() - residuals).float()


def left_out_smoother(rows: Tensor, targets: Tensor, items: Tensor, weights: Tensor) -> Tensor:
    """(b, d) the mean target of the pairs of all other items, less that of all, each by its likeness to the row.

    Args: as `left_out_regression` has them.
    """
    unit = F.normalize(rows, dim=1)
    likeness = (unit @ unit.T).clamp_min(0) ** POWER * weights
    likeness.masked_fill_(items[:, None] == items, 0)
    return likeness @ (targets - weights @ targets / weights.sum())


def _unlike_their_own(seen: _Seen) -> Tensor:
    """(b,) the probability that a partner belongs to another item, by its likeness to the other partners of its item.

    On the right side and on the left one: an item may have several rows on either. 0 where there are too few.
    """
    wrong = torch.zeros(len(seen.items))
    for rows in (seen.y, seen.x):
        unit = F.normalize(rows, dim=1)
        distinct = torch.unique(rows, dim=0, return_inverse=True)[1]
        numbers = torch.unique(torch.stack([seen.items, distinct]), dim=1)[0].bincount()
        enough = seen.items.bincount() >= TEXTS
        several = enough[seen.items]
        if int((numbers > 1).sum()) == 0 or int(enough.sum()) < LEAST_ITEMS:
            continue
        likeness = unit @ unit.T
        sums = _of_items(likeness.T, seen.items).T * seen.items.bincount()
        same = torch.zeros_like(sums).scatter_(1, seen.items[:, None], 1.0).bool()
        counts = (seen.items.bincount() - same.long()).clamp_min(1)
        means = (sums - same * likeness.diagonal()[:, None]) / counts
        means = means[several]
        own = means[same[several]]
        other = means.masked_fill(same[several], torch.nan)
        centre = other.nanmean(1)
        spread = (other - centre[:, None]).square().nanmean(1).sqrt().clamp_min(1e-9)
        scores = (own - centre) / spread
        null = ((other - centre[:, None]) / spread[:, None]).flatten()
        wrong[several] = torch.maximum(wrong[several], mixture(scores, null[~null.isnan()], ODD_TEXTS).wrong)
    return wrong


def _wrong(fits: Tensor) -> Tensor:
    """(k,) the probability that each item has the partners of another one."""
    away = ~torch.eye(len(fits), dtype=torch.bool)
    centred = (_centred(fits) + _centred(fits.T).T) / 2  # some items fit many others better than others do
    return mixture(centred.diagonal(), centred[away], ODD_ITEMS).wrong


def _centred(fits: Tensor) -> Tensor:
    """Each row in units of its spread over the other items."""
    other = fits.clone().fill_diagonal_(torch.nan)
    centre = other.nanmean(1, keepdim=True)
    spread = (other - centre).square().nanmean(1, keepdim=True).sqrt()
    return (fits - centre) / spread.clamp_min(1e-9)


class Mixture(NamedTuple):
    """Two normal distributions: that of wrong pairs, which is known, and that of right ones.

    Attributes:
        wrong: (k,) probability that each score is of a wrong pair. It never rises with the score.
        share: Of the wrong ones.
    """

    wrong: Tensor
    share: float


PRIOR_SHARE, PRIOR_WEIGHT = 0.05, 10.0  # a share of wrong pairs as if found in so many items
# Share of right ones that look like any wrong one, where the two distributions are the same; less if they lie apart.
ODD_ITEMS, ODD_TEXTS = 0.1, 0.05
STEPS = 50
LEAST_SPREAD = 0.5  # of the right scores, in those of wrong ones


def mixture(scores: Tensor, null: Tensor, odd: float) -> Mixture:
    """Fits the distribution of right scores and the share of wrong ones by expectation maximisation.

    Args:
        scores: (k,) of the pairs: higher is better.
        null: What wrong pairs score.
        odd: Share of the right pairs that score like wrong ones: nothing is called wrong until there are more of these.

    Source: Dempster, Laird & Rubin 1977 (J. R. Stat. Soc. B 39), with a Beta prior on the share.
    """
    below = torch.searchsorted(null.sort().values, scores.contiguous())
    z = torch.special.ndtri((below + 0.5).double() / (len(null) + 1))
    share, centre = torch.tensor(PRIOR_SHARE, dtype=torch.float64), z.median()
    width = (1.4826 * (z - centre).abs().median()).clamp_min(LEAST_SPREAD)
    wrong = torch.zeros_like(z)
    for _ in range(STEPS):
        looks_wrong = odd * 2 * torch.special.ndtr(-centre.clamp_min(0) / 2)
        as_wrong = (-0.5 * z.square()).exp()
        as_right = (-0.5 * ((z - centre) / width).square()).exp() / width
        both = share * as_wrong + (1 - share) * (looks_wrong * as_wrong + (1 - looks_wrong) * as_right)
        wrong = torch.where(z < centre, share * as_wrong / both.clamp_min(1e-300), 0.0)
        right = torch.where(z < centre, (1 - share) * (1 - looks_wrong) * as_right / both.clamp_min(1e-300), 1.0)
        share = (wrong.sum() + PRIOR_SHARE * PRIOR_WEIGHT) / (len(z) + PRIOR_WEIGHT)
        centre = (right * z).sum() / right.sum().clamp_min(1e-9)
        above = z[z >= centre]  # none if all scores are equal, as those of perfect pairs, and their mean is rounded up
        width = ((above - centre).square().mean() if len(above) else z.new_zeros(())).sqrt().clamp_min(LEAST_SPREAD)
    # Where the right scores spread wider than the wrong ones, the lowest ones would look right again.
    order = torch.argsort(z)
    falling = wrong[order].flip(0).cummax(0).values.flip(0)
    return Mixture(torch.empty_like(falling).index_copy_(0, order, falling).float(), float(share))


def _of_items(scores: Tensor, items: Tensor) -> Tensor:
    """(k, ...) means of rows by item."""
    counts = items.bincount()
    shape = (len(counts), *scores.shape[1:])
    return torch.zeros(shape).index_add_(0, items, scores) / counts.view(-1, *[1] * (scores.ndim - 1))


def _interval(probability: Tensor, items: Tensor, seed: int) -> tuple[float, float]:
    """90% of the number of wrong pairs: items are drawn anew, and each is wrong or right by its probability."""
    random = generator(seed, "suspects", "interval")
    sums = torch.zeros(int(items.max()) + 1).index_add_(0, items, probability)
    variance = torch.zeros(len(sums)).index_add_(0, items, probability * (1 - probability))
    drawn = torch.randint(len(sums), (200, len(sums)), generator=random)
    noise = torch.randn(200, generator=random)
    totals = sums[drawn].sum(1) + noise * variance.sum().sqrt()
    low, high = totals.quantile(torch.tensor([0.05, 0.95])).clamp(0, len(items)).tolist()
    return low, high
