"""The probability that an answer is right, calibrated on known pairs that the encoders have not seen.

An answer stands out if few other rows are as near to the query, and if few other queries are as near to it. Both are
log-odds in a softmax, so they mean the same in a small gallery and in a large one. Their mean is turned into a
probability by logistic regression, or by isotonic regression if there are many known items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import isotonic_regression, minimize, minimize_scalar

from setclip_cli.sampling import generator
from setclip_cli.trust.answers import log_odds, partners_here, standing_out
from setclip_cli.trust.conformal import threshold

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    Floats = npt.NDArray[np.float64]

LEAST_ITEMS = 30  # held out: with fewer, a handful of right answers would decide every probability
ISOTONIC_ITEMS = 500  # held out, from which isotonic regression replaces the logistic one (benchmarks/results.md)
SHARES = (1.0, 1 / 4, 1 / 16)  # of the pools that held-out pairs are asked in: galleries of other sizes
LEAST_GALLERY = 8  # rows of either side of such a part
ALIKE = 0.75  # share of the partners of a known item that other items have too, from which they stay in the gallery
HITS = 5  # answers to each query that are judged
TEMPERATURES = (0.003, 0.5)
TEMPERATURE_PAIRS = 400  # that decide the temperature
RIDGE = (0.1, 0.5)  # of the intercept towards 0 and of the slope towards 1, as a Gaussian prior's precision
KNOTS = 200  # of an isotonic curve that are kept


@dataclass(frozen=True)
class HeldOut:
    """Known pairs that the encoders have not seen, in the pools that a user will ask.

    Attributes:
        left: (n, d) unit rows.
        right: (m, d) unit rows.
        pairs: (b, 2) int64, rows of both.
        items: (b,) int64, for each pair the number of its item. Other partners of its item count as right too.
    """

    left: Tensor
    right: Tensor
    pairs: Tensor
    items: Tensor

    def turned(self) -> HeldOut:
        """The same from right to left."""
        return HeldOut(self.right, self.left, self.pairs.flip(1), self.items)


@dataclass(frozen=True)
class Curve:
    """From how far an answer stands out to the probability that it is right.

    Attributes:
        slope, intercept: p = 1 / (1 + exp(-(slope · log-odds + intercept))), slope ≥ 0.
        knots: (log-odds, probability), both rising, between which the probability is interpolated; replaces the
            logistic curve if it is not empty.
    """

    slope: float
    intercept: float
    knots: tuple[tuple[float, float], ...] = ()

    def __call__(self, odds: Tensor) -> Tensor:
        """Probabilities in [0, 1], of the shape of the log-odds ``odds``."""
        if not self.knots:
            return torch.sigmoid(self.slope * odds + self.intercept)
        at, probability = np.array(self.knots).T
        return torch.from_numpy(np.interp(odds.double().numpy(), at, probability)).to(odds.dtype)


@dataclass(frozen=True)
class Direction:
    """What is known of the answers to the rows of one side.

    Attributes:
        temperature: Of the softmax over the other side.
        partners: Right answers of a known item, mean.
        in_pool: The curve for queries that come with the other rows of their side.
        alone: The curve for a query that comes alone, so that nothing says whether the answer is nearer to others.
        scores: How far each held-out partner stands out, see `pair_scores`.
        items: For each of them the number of its item.
        by_folds: Whether the scores are by encoders that saw fewer pairs than those in use.
    """

    temperature: float
    partners: float
    in_pool: Curve
    alone: Curve
    scores: tuple[float, ...]
    items: tuple[int, ...]
    by_folds: bool = False

    def threshold(self, coverage: float) -> float:
        """The score from which on a row belongs to the set with this coverage."""
        return threshold(self.scores, self.items, coverage, with_the_new_item=not self.by_folds)


Parts = Callable[[], Iterable[HeldOut]]


def calibrate(parts: Parts, *, seed: int) -> tuple[Direction, Direction]:
    """Calibrates the answers to left rows and to right rows.

    Args:
        parts: Gives the held-out pairs, fold by fold, each with the embeddings of its encoders. It is called twice,
            so that the embeddings of one fold are in memory at a time.
        seed: Decides the parts of the pools, ``SHARES``.

    Raises:
        ValueError: no pair is held out.
    """
    temperatures = _temperatures(parts())
    evidence: tuple[list[_Evidence], list[_Evidence]] = ([], [])
    for number, part in enumerate(parts()):
        for share in SHARES:
            drawn = part if share == 1 else _drawn(part, share, seed, number)
            if min(len(drawn.left), len(drawn.right), len(drawn.pairs) * LEAST_GALLERY) < LEAST_GALLERY and share < 1:
                continue
            for side, whole in enumerate((drawn, drawn.turned())):
                found = _evidence(whole, temperatures[side], temperatures[1 - side], scored=share == 1)
                evidence[side].append(found)
    left, right = (_direction(found, temperatures[side]) for side, found in enumerate(evidence))
    return left, right


@dataclass(frozen=True)
class _Evidence:
    """What one part says of one direction: of each answer whether it is right, of each partner how it stands out."""

    in_pool: Floats
    alone: Floats
    right: Floats
    scores: Floats
    items: list[int]
    partners: float


def _temperatures(parts: Iterable[HeldOut]) -> tuple[float, float]:
    kept: tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]] = ([], [])
    for part in parts:
        for side, whole in enumerate((part, part.turned())):
            step = math.ceil(len(part.pairs) / TEMPERATURE_PAIRS)
            rows = torch.arange(0, len(part.pairs), step)
            for asked in torch.split(rows, 64):
                cosines = _without_siblings(whole, asked)
                kept[side].append((cosines, cosines.gather(1, whole.pairs[asked, 1:])))
    if not kept[0]:
        raise ValueError("calibrate needs held-out pairs; got none")
    left, right = map(_temperature, kept)
    return left, right


def _temperature(asked: list[tuple[Tensor, Tensor]]) -> float:
    """The one at which the softmax gives the partners the highest likelihood."""

    def surprise(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        found = [torch.logsumexp(rows / temperature, 1) - own[:, 0] / temperature for rows, own in asked]
        return float(torch.cat(found).double().mean())

    bounds = math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1])
    return math.exp(minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 0.01}).x)


def _without_siblings(part: HeldOut, asked: Tensor) -> Tensor:
    """(q, m) cosines of the left rows of some pairs; other partners of the same item are out (minus infinity)."""
    cosines = part.left[part.pairs[asked, 0]] @ part.right.T
    siblings = _of_item(part, asked).scatter_(1, part.pairs[asked, 1:], value=False)
    return cosines.masked_fill_(siblings, -torch.inf)


def _of_item(part: HeldOut, asked: Tensor) -> Tensor:
    """(q, m) bool: the right rows that are partners of the items of some pairs."""
    item_of = torch.full((len(part.right),), -1).index_copy_(0, part.pairs[:, 1], part.items)
    return item_of == part.items[asked, None]


def _drawn(part: HeldOut, share: float, seed: int, number: int) -> HeldOut:
    """The held-out rows and a share of the others; a share of all items if the held-out ones are most rows."""
    random = generator(seed, "calibration", number, repr(share))
    numbers: Tensor = torch.unique(part.items, return_inverse=True)[1]
    most = len(set(part.pairs[:, 0].tolist())) > share * len(part.left) / 2
    asked = torch.rand(int(numbers.max()) + 1, generator=random)[numbers] < (share if most else 1.0)
    pools, pairs = [], []
    for pool, rows in zip((part.left, part.right), part.pairs.T, strict=True):
        kept = torch.rand(len(pool), generator=random) < share
        kept[rows[~asked]] = False
        kept[rows[asked]] = True
        pools.append(pool[kept])
        pairs.append((kept.cumsum(0) - 1)[rows[asked]])
    return HeldOut(pools[0], pools[1], torch.stack(pairs, 1), part.items[asked])


def _partners(part: HeldOut) -> tuple[float, float]:
    """Mean partners of a left row and of a right row of the held-out pairs."""
    counts = [len(set(rows.tolist())) for rows in part.pairs.T]
    return len(part.pairs) / counts[0], len(part.pairs) / counts[1]


def _evidence(part: HeldOut, temperature: float, of_answers: float, *, scored: bool) -> _Evidence:
    """What the answers to the left rows of a part say.

    If other items have as many partners here as the known ones, the gallery is asked as it is. Else a known item with
    all its texts would be easier to find than others: its other texts are left out.
    """
    known, sizes = _partners(part), (len(part.left), len(part.right))
    here = partners_here(known[0], *sizes), partners_here(known[1], *sizes[::-1])
    alike = all(found > ALIKE * wanted for found, wanted in zip(here, known, strict=True))
    partners = here if alike else (1.0, 1.0)
    mass = _mass(part.right, part.left, of_answers)
    alone, in_pool, right, scores = [], [], [], []
    for asked in torch.split(torch.arange(len(part.pairs)), 256):
        own, answers = part.pairs[asked, 1:], _of_item(part, asked)
        cosines = part.left[part.pairs[asked, 0]] @ part.right.T if alike else _without_siblings(part, asked)
        masses = torch.logsumexp(cosines / temperature, 1, keepdim=True)
        found, rows = cosines.topk(min(HITS, cosines.shape[1]), dim=1)
        there = found.isfinite()  # a small gallery may have siblings alone
        single = standing_out(found, masses, temperature, partners[0])
        both = (single + standing_out(found, mass[rows], of_answers, partners[1])) / 2
        alone.append(single[there])
        in_pool.append(both[there])
        right.append(answers.gather(1, rows)[there])
        if scored:
            partner = cosines.gather(1, own)
            temperatures = temperature, of_answers
            scores.append(pair_scores(partner, masses, mass[own], temperatures, sizes[1], sizes[0]))
    judged = [torch.cat(found).double().numpy() for found in (in_pool, alone, right)]
    if not scored:
        return _Evidence(judged[0], judged[1], judged[2], np.zeros(0), [], 0.0)
    stood = torch.cat(scores).squeeze(1).double().numpy()
    return _Evidence(judged[0], judged[1], judged[2], stood, part.items.tolist(), known[0])


def pair_scores(
    cosines: Tensor, mass: Tensor, of_answer: Tensor, temperatures: tuple[float, float], gallery: int, queries: int
) -> Tensor:
    """How far pairs stand out from all other pairs of their rows: what decides which rows belong to a conformal set.

    The sum over both rows of the pair of cos / t - log mean_j exp(cos_j / t), over the other pairs j of the row. A
    mean, so it is one scale for galleries of every size, also where the pair has nearly all of the mass.

    Args:
        mass: Of the queries, of_answer: of the answers, see `Answers`.
        temperatures: Of the queries' direction and of the other one.
        gallery: Rows among which the answers are, queries: rows among which the queries are.
    """
    own = log_odds(cosines / temperatures[0] - mass) + math.log(gallery)
    return own + log_odds(cosines / temperatures[1] - of_answer) + math.log(queries)


def _mass(rows: Tensor, others: Tensor, temperature: float) -> Tensor:
    """(n,) log Σ exp(cos / temperature) of each row over all others."""
    return torch.cat([torch.logsumexp(block @ others.T / temperature, 1) for block in torch.split(rows, 1024)])


def _direction(found: list[_Evidence], temperature: float) -> Direction:
    right = np.concatenate([one.right for one in found])
    scores = np.concatenate([one.scores for one in found])
    items = [item for one in found for item in one.items]
    pooled = len(set(items)) >= ISOTONIC_ITEMS
    curves = [
        fit_curve(np.concatenate([getattr(one, kind) for one in found]), right, isotonic=pooled)
        for kind in ("in_pool", "alone")
    ]
    folds = [one.partners for one in found if one.items]
    return Direction(temperature, float(np.mean(folds)), curves[0], curves[1], tuple(scores.tolist()), tuple(items))


def fit_curve(odds: Floats, right: Floats, *, isotonic: bool = False) -> Curve:
    """The curve from log-odds of answers to the share of right ones.

    Args:
        odds: (n,) log-odds, how far each answer stands out.
        right: (n,) 1 for a right answer, else 0.
        isotonic: Isotonic regression, instead of the logistic one.
    """
    slope, intercept = fit_logistic(odds, right)
    return Curve(slope, intercept, isotonic_knots(odds, right) if isotonic else ())


def fit_logistic(odds: Floats, right: Floats, ridge: tuple[float, float] = RIDGE) -> tuple[float, float]:
    """Slope and intercept of a logistic regression with a weak prior: log-odds that are right as they are.

    Minimises Σ log(1 + exp(e)) - y e + (ridge₀ intercept² + ridge₁ (slope - 1)²) / 2, e = slope x + intercept. So with
    few right answers, or none, the probabilities stay near what the log-odds say.

    Source: Platt 1999 (Advances in Large Margin Classifiers), with a Gaussian prior in the place of his targets.
    """

    def loss(weights: Floats) -> tuple[float, Floats]:
        slope, intercept = weights
        score = slope * odds + intercept
        off = 1 / (1 + np.exp(-np.clip(score, -700, 700))) - right
        value = float((np.logaddexp(0, score) - right * score).sum())
        value += (ridge[0] * intercept**2 + ridge[1] * (slope - 1) ** 2) / 2
        return value, np.array([off @ odds + ridge[1] * (slope - 1), off.sum() + ridge[0] * intercept])

    found = minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 500},
    )  # fmt: skip
    return float(found.x[0]), float(found.x[1])


def isotonic_knots(odds: Floats, right: Floats) -> tuple[tuple[float, float], ...]:
    """Isotonic regression as the ends of its steps, at most ``KNOTS``, between which one interpolates.

    Source: Zadrozny & Elkan 2002 (KDD), by pool-adjacent-violators.
    """
    at, place = np.unique(odds, return_inverse=True)
    weights = np.bincount(place)
    fitted = isotonic_regression(np.bincount(place, right) / weights, weights=weights).x
    ends = np.flatnonzero(np.diff(fitted, prepend=-1.0, append=2.0))
    kept = np.unique(np.concatenate([ends[:-1], ends[1:] - 1]))
    if len(kept) > KNOTS:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, KNOTS).round().astype(int))]
    return tuple(zip(at[kept].tolist(), fitted[kept].clip(0, 1).tolist(), strict=True))


def expected_calibration_error(probabilities: Floats, right: Floats, *, bins: int = 15) -> float:
    """Mean over bins of equally many answers of |mean probability - share of right answers|.

    Answers of equal probability count with their mean, so their order decides nothing.

    Source: Naeini et al. 2015 (AAAI); bins of equal mass, Nixon et al. 2019, arXiv:1904.01685.
    """
    order = np.argsort(probabilities, kind="stable")
    _, place, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    right = (np.bincount(place, right) / counts)[place]
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(abs(probabilities[one].mean() - right[one].mean()) * len(one) for one in parts) / len(order))
