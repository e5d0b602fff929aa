"""Where two sets of unit vectors lie relative to each other, with and without known pairs.

Every statistic is a mean over rows, or a simple function of one, so that the bootstrap can resample the rows. The
chance level of a statistic of two sets is its value after both sets are pooled and split at random: it is what sampling
alone gives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import hyp0f1

from setclip_cli.evaluation.similarity import similarity_blocks
from setclip_cli.losses.kernels import log_kernel_sum
from setclip_cli.losses.sdd import log_density_ratios

if TYPE_CHECKING:
    import numpy.typing as npt

    from setclip_cli.evaluation.arrays import Embeddings, Floats, Ints


SDD_BANDWIDTH = 0.2  # s of exp(-‖x-y‖²/s); fixed, so that models can be compared, before and after training
MMD_BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0)
UNIFORMITY_SCALE = 2.0
NEIGHBOURS = 10


def modality_gap(x: Embeddings, y: Embeddings) -> float:
    """‖mean x - mean y‖, in [0, 2]; 0 if the two sets have the same mean (Liang et al. 2022, arXiv:2203.02053)."""
    return float(np.linalg.norm(x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)))


def sdd_shares(x: Embeddings, y: Embeddings) -> tuple[Floats, Floats]:
    """Log density ratios (n,), (m,) of each row under its own set and the other; SDD is the sum of their means."""
    own, other = log_density_ratios(torch.from_numpy(x), torch.from_numpy(y), [SDD_BANDWIDTH])
    return own[:, 0].double().numpy(), other[:, 0].double().numpy()


def mmd_shares(x: Embeddings, y: Embeddings) -> tuple[Floats, Floats]:
    """Each row's share (n,), (m,) of MMD², averaged over ``MMD_BANDWIDTHS``; MMD² is the sum of their means.

    Biased form: the diagonal stays in (Gretton et al. 2012, JMLR 13).
    """

    def mean_kernel(a: Embeddings, b: Embeddings) -> Floats:
        sums = log_kernel_sum(torch.from_numpy(a), torch.from_numpy(b), MMD_BANDWIDTHS)
        means: Floats = (sums.double() - math.log(len(b))).exp().mean(1).numpy()
        return means

    return mean_kernel(x, x) - mean_kernel(x, y), mean_kernel(y, y) - mean_kernel(y, x)


def mean_potential(x: Embeddings) -> Floats:
    """(n,) mean over the other rows of exp(-2 ‖x_i - x_j‖²). The log of its mean is the uniformity of the set.

    Uniformity is at most 0, and a lower value means more spread out (Wang and Isola 2020, arXiv:2005.10242).

    Raises:
        ValueError: fewer than two rows.
    """
    rows = torch.from_numpy(x)
    sums = log_kernel_sum(rows, rows, [1 / UNIFORMITY_SCALE], exclude_self=True)[:, 0]
    means: Floats = (sums.double() - math.log(len(x) - 1)).exp().numpy()
    return means


def uniform_uniformity(width: int) -> float:
    """Uniformity of the uniform distribution on the sphere in ``width`` = d dimensions.

    log E exp(4 u - 4) = log 0F1(d/2; 4) - 4.
    """
    return float(np.log(hyp0f1(width / 2, UNIFORMITY_SCALE**2)) - 2 * UNIFORMITY_SCALE)


def neighbours(queries: Embeddings, gallery: Embeddings, k: int, *, skip_self: bool = False) -> Ints:
    """(q, k) the nearest gallery rows of each query, unordered; fewer than k if the gallery is smaller.

    `encoders.neighbours` normalises again and may search approximately; metrics must be exact on the rows as they are.

    Args:
        skip_self: Row i of the gallery is query i and does not count as its own neighbour.
    """
    k = min(k, len(gallery) - skip_self)
    found = []
    for start, scores in similarity_blocks(queries, gallery):
        if skip_self:
            scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf
        np.negative(scores, out=scores)
        found.append(np.argpartition(scores, k - 1, axis=1)[:, :k].copy())  # a view would keep all columns in memory
    return np.concatenate(found)


def skewness(counts: Floats) -> float:
    """Third standardised moment; of how often each gallery row is among the k nearest of a query it measures hubness.

    0 for an even spread, large if a few hubs are near every query (Radovanović et al. 2010, JMLR 11).
    """
    centred = counts - counts.mean()
    deviation = centred.std()
    return float((centred**3).mean() / deviation**3) if deviation > 0 else 0.0


def chance_skewness(queries: int, gallery: int, k: int = NEIGHBOURS) -> float:
    """Skewness of the k-occurrence if every query draws its neighbours at random: that of a binomial count."""
    share = min(k, gallery) / gallery
    spread = queries * share * (1 - share)
    return (1 - 2 * share) / math.sqrt(spread) if spread > 0 else 0.0


def linear_cka(x: Embeddings, y: Embeddings) -> float:
    """Linear centred kernel alignment of paired rows, in [0, 1] (Kornblith et al. 2019, arXiv:1905.00414)."""
    a, b = x - x.mean(0, dtype=np.float64), y - y.mean(0, dtype=np.float64)
    scale = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(np.linalg.norm(a.T @ b) ** 2 / scale) if scale > 0 else 0.0


def mutual_knn(x: Embeddings, y: Embeddings, k: int = NEIGHBOURS) -> Floats:
    """(n,) share of the k nearest rows within x that are also the k nearest within y, rows paired by place.

    Huh et al. 2024, arXiv:2405.07987. Chance is k / (n - 1).
    """
    k = min(k, len(x) - 1)
    in_x = np.sort(neighbours(x, x, k, skip_self=True), axis=1)
    in_y = np.sort(neighbours(y, y, k, skip_self=True), axis=1)
    return np.array([len(np.intersect1d(a, b, assume_unique=True)) / k for a, b in zip(in_x, in_y, strict=True)])


def foscttm(x: Embeddings, y: Embeddings) -> Floats:
    """(n,) fraction of rows closer than the true match, mean of both directions; a tie counts half.

    Rows are paired by place. 0 is perfect, 0.5 is chance (Liu et al. 2019, WABI).
    """
    return (_closer_than_match(x, y) + _closer_than_match(y, x)) / 2


def _closer_than_match(queries: Embeddings, gallery: Embeddings) -> Floats:
    shares = []
    for start, scores in similarity_blocks(queries, gallery):
        own = scores[np.arange(len(scores)), start + np.arange(len(scores))][:, None]
        closer, tied = (scores > own).sum(1), (scores == own).sum(1) - 1
        shares.append((closer + tied / 2) / max(len(gallery) - 1, 1))
    found: Floats = np.concatenate(shares)
    return found


def alignment(x: Embeddings, y: Embeddings) -> Floats:
    """(n,) squared distance of each pair, rows paired by place; its mean is the alignment of Wang and Isola 2020."""
    squared: Floats = np.square(x.astype(np.float64) - y).sum(1)
    return squared


def random_split_of_pool(x: Embeddings, y: Embeddings, *, seed: int = 0) -> tuple[Embeddings, Embeddings]:
    """Both sets, pooled and split again at random into the same sizes."""
    pooled = np.concatenate([x, y])
    order = np.random.default_rng([seed, len(x), len(y)]).permutation(len(pooled))
    return pooled[order[: len(x)]], pooled[order[len(x) :]]


def similarity_density(
    x: Embeddings, y: Embeddings, *, bins: int | None = None, sample: int = 2000
) -> dict[str, list[float]]:
    """Densities of cosine similarity within x, within y and between them, over ``bins`` equal parts of [-1, 1].

    At most ``sample`` evenly spaced rows of each set are compared. Each density integrates to 1.

    Args:
        bins: By default the root of the number of compared pairs, but from 20 to 80: a curve of few rows stays smooth.
    """
    a, b = (rows[:: max(1, -(-len(rows) // sample))] for rows in (x, y))
    bins = bins or min(80, max(20, math.isqrt(min(len(a), len(b)) ** 2 // 2)))
    edges = np.linspace(-1, 1, bins + 1)

    def density(values: npt.NDArray[np.float32]) -> list[float]:
        counts, _ = np.histogram(np.clip(values, -1, 1), edges)
        return [float(count) for count in counts / max(counts.sum(), 1) / (edges[1] - edges[0])]

    def within(rows: Embeddings) -> npt.NDArray[np.float32]:
        upper: npt.NDArray[np.float32] = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
        return upper

    return {
        "similarity": [float(value) for value in (edges[:-1] + edges[1:]) / 2],
        "within_left": density(within(a)),
        "within_right": density(within(b)),
        "cross": density((a @ b.T).ravel()),
    }
