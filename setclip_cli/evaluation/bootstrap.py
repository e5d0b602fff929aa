"""Bootstrap intervals: the queries are resampled with replacement (Efron 1979), alike for everything that is compared.

An interval holds for the queries at hand. Another seed or another draw of pairs gives another model; that is a separate
spread, which the report shows as the standard deviation over RUNs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from setclip_cli.evaluation.arrays import Floats


RESAMPLES = 1000
CONFIDENCE = 0.95
_CACHED_VALUES = 2**22  # counts kept in memory: 32 MiB


def resample_counts(rows: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Floats]:
    """For each resample, yields (rows,) how often each row is drawn. Equal arguments give equal resamples."""
    if rows * resamples <= _CACHED_VALUES:
        yield from _cached_counts(rows, resamples, seed)
    else:
        yield from _draw_counts(rows, resamples, seed)


def _draw_counts(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    rng = np.random.default_rng([seed, rows])
    for _ in range(resamples):
        yield np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(np.float64)


@lru_cache(maxsize=4)
def _cached_counts(rows: int, resamples: int, seed: int) -> tuple[Floats, ...]:
    """Small evaluation sets are resampled for every metric of every RUN: one draw for all of them saves most time."""
    cached = tuple(_draw_counts(rows, resamples, seed))
    for counts in cached:
        counts.flags.writeable = False
    return cached


def resampled_means(
    values: Mapping[str, Floats],
    *,
    medians: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Floats]:
    """Bootstrap distribution of the mean of each metric.

    Two calls with equally many queries and the same seed resample the same queries. So the difference of their results
    is the paired bootstrap of the difference, and the mean of their results is that of the mean over runs.

    Args:
        values: Metric name -> (q,) value of each query.
        medians: New name -> the metric whose median is returned under that name, in addition to its mean.

    Returns:
        Name -> (resamples,) values.
    """
    stacked = np.stack(list(values.values()), axis=1)
    ordered = {name: (np.argsort(values[of]), np.sort(values[of])) for name, of in (medians or {}).items()}
    found = {name: np.empty(resamples) for name in (*values, *ordered)}
    for number, counts in enumerate(resample_counts(len(stacked), resamples=resamples, seed=seed)):
        for name, value in zip(values, counts @ stacked / len(stacked), strict=True):
            found[name][number] = value
        for name, (order, ascending) in ordered.items():
            found[name][number] = _counted_median(counts[order], ascending)
    return found


def confidence_interval(distribution: Floats) -> tuple[float, float]:
    """The central 95% of a bootstrap distribution (percentile interval)."""
    low, high = np.nanquantile(distribution, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _counted_median(counts: Floats, ascending: Floats) -> float:
    """Median of ascending values, each of them taken as often as it was drawn."""
    running = np.cumsum(counts)
    total = int(running[-1])
    low, high = np.searchsorted(running, [(total - 1) // 2, total // 2], side="right")
    return float(ascending[low] + ascending[high]) / 2
