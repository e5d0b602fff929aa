"""Which rows of a pool have no partner in the other one, and how many they are, learned from the known pairs.

Two pools that were collected apart seldom hold the same things. A known row has a partner by definition, so the known
rows show how rows with a partner look: where they lie in their own pool, and how near the other pool comes to them
through a map that was fitted to the pairs alone. A row that looks otherwise may have no partner.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import norm

from setclip_cli.encoders import FeatureTransform
from setclip_cli.errors import SetClipError
from setclip_cli.methods.held_out import FOLDS, folds
from setclip_cli.methods.kernel_regression import fit_kernel_regression
from setclip_cli.methods.transport import fit_transport
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

LEAST_ITEMS = 20  # known: with fewer the interval is nearly the whole of [0, 1]
AXES = 256
ROWS = 1_500  # of each pool that all rows are compared with: bounds time and memory
BLOCK = 4_096  # rows in one product
TEMPERATURE = 0.1  # of the densities
NEAREST = 10  # rows of the other pool
SMOOTHED = 15  # rows of the own pool whose scores are averaged
# The score of rows without a partner lies a distance above that of others, in standard deviations. On validation splits
# of RSICD it was 1.3 to 2.3, so these are the mean and deviation of what is expected of it before any row is seen.
DISTANCE = (1.7, 0.5)
INDEPENDENT = 0.6  # share of the known items that count as independent: items of one kind lie together
BINS = 200
COVERED = 0.95  # by the interval


@dataclass(frozen=True)
class UnmatchedRows:
    """Of one pool.

    Attributes:
        share: Of its rows that have no partner in the other pool, in [0, 1].
        interval: (low, high) 95% interval of ``share``.
        difference: How far the mix of the pool is from that of its rows with a partner, as the score sees it: the share
            of the pool that would have to be exchanged (total variation), in [0, 1].
        difference_interval: (low, high) 95% interval of ``difference``.
        probabilities: (n,) float32: for each row that it has no partner. 0 for known rows.
    """

    share: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    probabilities: Tensor

    @classmethod
    def none(cls, rows: int) -> UnmatchedRows:
        """Of a pool whose rows are all known."""
        return cls(0.0, (0.0, 0.0), 0.0, (0.0, 0.0), torch.zeros(rows))

    @classmethod
    def unknown(cls, rows: int) -> UnmatchedRows:
        """Of a pool of which too few rows are known: one caption of all known images says nothing about captions."""
        return cls(0.5, (0.0, 1.0), 0.5, (0.0, 1.0), torch.zeros(rows))

    @property
    def certain(self) -> bool:
        """Whether some rows surely have no partner: the interval begins above a tenth."""
        return self.interval[0] > 0.1


def unmatched_rows(
    left: Tensor, right: Tensor, pairs: Tensor, items: Tensor, *, seed: int = 0
) -> tuple[UnmatchedRows, UnmatchedRows]:
    """The rows of both pools that have no partner in the other one.

    Each row gets a score: the higher, the less it looks like a row with a partner. Known rows that are held out of the
    fit are scored as well. With Q the distribution of the scores of a pool, H that of its known rows and G that of its
    rows without a partner, Q = (1 - s) H + s G; s is the share. H and G are taken as two normal distributions of one
    width, which the ranks of the known rows place within Q: a posterior over s and the distance of the two.

    Args:
        left: (n, p) float32 features of the left pool.
        right: (m, q) of the right one.
        pairs: (b, 2) int64 rows of the known pairs.
        items: (b,) int64: for each pair the number of its item.
        seed: Decides folds and samples.

    Returns:
        The left pool and the right pool.

    Raises:
        SetClipError: fewer than ``LEAST_ITEMS`` known items.

    Sources: a mixture of which one part is known by examples, Elkan & Noto 2008 (KDD); a pair of normal distributions
        seen through ranks, Dorfman & Alf 1969 (J. Math. Psychology 6); the densities are log-normalisers of Gaussian
        kernels, as in the semantic density distribution loss (arXiv:2406.05766).
    """
    known = len(set(items.tolist()))
    if known < LEAST_ITEMS:
        raise SetClipError(
            f"{known} known item{'' if known == 1 else 's'}: too few to say which rows have no partner",
            fix=f"add pairs, with `setclip label` for example: {LEAST_ITEMS} known items are enough to begin with",
        )
    x, y = FeatureTransform.fit(left, AXES)(left), FeatureTransform.fit(right, AXES)(right)
    drawn = [_sample(len(side), generator(seed, "unmatched", str(number))) for number, side in enumerate((x, y))]
    graphs = [_nearest(side, rows) for side, rows in zip((x, y), drawn, strict=True)]
    free = [rows[~torch.isin(rows, pairs[:, number])] for number, rows in enumerate(drawn)]
    fold = folds(pairs, seed, items)
    ranks: tuple[list[Tensor], list[Tensor]] = ([], [])
    weights: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number in range(FOLDS):
        hidden = fold == number
        if not bool(hidden.any()) or len(set(items[~hidden].tolist())) < LEAST_ITEMS // 2:
            continue
        maps = _maps(x, y, pairs[~hidden], seed)
        for side in (0, 1):
            if len(free[side]):
                asked = torch.cat([free[side], pairs[hidden, side]])
                scores = _scores((x, y), maps, pairs[~hidden], drawn, graphs, side, asked)
                ranks[side].append(_ranks(scores[len(free[side]) :], scores[: len(free[side])]))
                weights[side].append(_weights(items[hidden]))
    maps = _maps(x, y, pairs, seed)
    left_rows, right_rows = (
        _side((x, y), maps, pairs, drawn, graphs, side, torch.cat(ranks[side]), torch.cat(weights[side]))
        if ranks[side] and len(torch.unique(pairs[:, side])) >= LEAST_ITEMS
        else (UnmatchedRows.unknown if ranks[side] else UnmatchedRows.none)(len(pool))
        for side, pool in enumerate((x, y))
    )
    return left_rows, right_rows


class Posterior(NamedTuple):
    """What the ranks of held-out known rows say.

    Attributes:
        share: Posterior mean.
        interval: (low, high), see ``COVERED``.
        difference: Posterior mean of the total variation of the pool and its rows with a partner.
        difference_interval: (low, high).
        unmatched: (BINS,) probability that a row has no partner, by its rank within the pool; never falls.
    """

    share: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    unmatched: npt.NDArray[np.float64]


def posterior(ranks: Tensor, weights: Tensor) -> Posterior:
    """The share of rows without a partner, from the ranks of known rows within the scores of the pool.

    Args:
        ranks: (b,) in [0, 1]; if every row had a partner, they would be uniform.
        weights: (b,) how much each counts; in all, the number of known items.
    """
    matched, distances, density = _binormal()
    bins = np.minimum((ranks.numpy() * BINS).astype(np.int64), BINS - 1)
    likelihood = INDEPENDENT * (np.log(density[:, :, bins]) * weights.numpy()).sum(2)
    expected = -0.5 * ((distances - DISTANCE[0]) / DISTANCE[1]) ** 2
    mass = np.exp(likelihood + expected - (likelihood + expected).max())
    mass /= mass.sum()
    shares = np.broadcast_to(1 - matched[:, None], mass.shape)
    # Q - H = s (G - H), and two normal distributions of one width differ by 2 Φ(distance / 2) - 1.
    differences = shares * (2 * norm.cdf(distances / 2) - 1)
    with_partner = np.clip((mass[:, :, None] * matched[:, None, None] * density).sum((0, 1)), 0, 1)
    return Posterior(
        *_mean_and_interval(shares, mass),
        *_mean_and_interval(differences, mass),
        np.maximum.accumulate(1 - with_partner),
    )


def _mean_and_interval(
    values: npt.NDArray[np.float64], mass: npt.NDArray[np.float64]
) -> tuple[float, tuple[float, float]]:
    order = np.argsort(values, axis=None)
    below = np.cumsum(mass.ravel()[order])
    tail = (1 - COVERED) / 2
    low, high = (
        float(values.ravel()[order[min(int(np.searchsorted(below, at)), len(order) - 1)]]) for at in (tail, 1 - tail)
    )
    return float((values * mass).sum()), (low, high)


@functools.cache
def _binormal() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Shares of rows with a partner, distances, and the density of their ranks (shares, distances, BINS)."""
    matched, distances = np.linspace(0.02, 1, 50), np.linspace(0.4, 3.6, 17)
    scores, edges = np.linspace(-6, 10, 1601), np.linspace(0, 1, BINS + 1)
    density = np.empty((len(matched), len(distances), BINS))
    for row, share in enumerate(matched):
        for column, distance in enumerate(distances):
            pool = share * norm.cdf(scores) + (1 - share) * norm.cdf(scores - distance)
            of_known = norm.cdf(np.interp(edges, pool, scores))
            of_known[[0, -1]] = 0, 1
            density[row, column] = np.diff(of_known) * BINS
    return matched, distances, np.maximum(density, 1e-3)


def _sample(count: int, random: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=random)[:ROWS].sort().values


def _maps(x: Tensor, y: Tensor, pairs: Tensor, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Unit embeddings of both pools by two maps that were fitted to the pairs alone.

    A map that also learns from the unpaired rows brings the pools together, and with them the rows without a partner.
    """
    fitted = fit_transport(x, y, pairs, seed=seed, share=0), fit_kernel_regression(x, y, pairs, seed=seed)
    return [(F.normalize(of_left(x), dim=1), F.normalize(of_right(y), dim=1)) for of_left, of_right in fitted]


def _nearest(pool: Tensor, drawn: Tensor) -> Tensor:
    """(n, SMOOTHED) places in ``drawn`` of the rows that are nearest to each row."""
    unit = F.normalize(pool, dim=1)
    count = min(SMOOTHED, len(drawn))
    return torch.cat([(block @ unit[drawn].T).topk(count, dim=1).indices for block in torch.split(unit, BLOCK)])


def _scores(
    pools: tuple[Tensor, Tensor],
    maps: list[tuple[Tensor, Tensor]],
    known: Tensor,
    drawn: list[Tensor],
    graphs: list[Tensor],
    side: int,
    asked: Tensor,
) -> Tensor:
    """(a,) scores of the rows ``asked`` of a side: each of the parts is averaged over near rows, then over parts."""
    unit = F.normalize(pools[side], dim=1)
    seen = unit[drawn[side]]
    near = _density(seen, unit[torch.unique(known[:, side])]) - _density(seen, seen)
    parts = [-near]
    for embeddings in maps:
        queries, others = embeddings[side][drawn[side]], embeddings[1 - side][drawn[1 - side]]
        cosines = queries @ others.T
        parts += [
            -cosines.topk(min(NEAREST, len(others)), dim=1).values.mean(1),
            _density(queries, queries) - torch.logsumexp(cosines / TEMPERATURE, 1),
        ]
    raw = torch.stack(parts, dim=1)
    raw = (raw - raw.mean(0)) / raw.std(0).clamp_min(1e-9)
    return raw.mean(1)[graphs[side][asked]].mean(1)


def _density(rows: Tensor, others: Tensor) -> Tensor:
    """log Σ_j exp(cos(row, other j) / TEMPERATURE) of unit rows."""
    return torch.logsumexp(rows @ others.T / TEMPERATURE, 1)


def _ranks(scores: Tensor, reference: Tensor) -> Tensor:
    """The share of the reference that lies below each score; ties count half."""
    ordered = reference.sort().values
    below, upto = (torch.searchsorted(ordered, scores, right=right) for right in (False, True))
    return (below + upto).float() / (2 * len(ordered))


def _weights(items: Tensor) -> Tensor:
    """(b,) one over the number of pairs of each pair's item, so that an item counts once."""
    numbers: Tensor = torch.unique(items, return_inverse=True)[1]
    counts = numbers.bincount()
    return 1 / counts[numbers].float()


def _side(
    pools: tuple[Tensor, Tensor],
    maps: list[tuple[Tensor, Tensor]],
    pairs: Tensor,
    drawn: list[Tensor],
    graphs: list[Tensor],
    side: int,
    ranks: Tensor,
    weights: Tensor,
) -> UnmatchedRows:
    found = posterior(ranks, weights)
    scores = _scores(pools, maps, pairs, drawn, graphs, side, torch.arange(len(pools[side])))
    known = torch.zeros(len(scores), dtype=torch.bool)
    known[pairs[:, side]] = True
    bins = (_ranks(scores, scores[~known]) * BINS).long().clamp_max(BINS - 1)
    probabilities = torch.from_numpy(found.unmatched).float()[bins].masked_fill_(known, 0)
    free = 1 - float(known.float().mean())  # the posterior speaks of the rows that are not known
    low, high = found.interval
    least, most = found.difference_interval
    return UnmatchedRows(
        free * found.share,
        (free * low, free * high),
        free * found.difference,
        (free * least, free * most),
        probabilities,
    )
