"""How sure are we: resampling the queries with replacement (Efron 1979), the same draws for everything compared.

The intervals speak of the queries at hand; that another seed or another draw of pairs gives another model is a separate
spread, which the report shows as the standard deviation over RUNs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

TIMES = 1000
LEVEL = 0.95
_KEPT_VALUES = 2**22  # 32 MiB of resamples kept in memory


def weights(rows: int, *, times: int = TIMES, seed: int = 0) -> Iterator[Floats]:
    """Yields (rows,) how often each row is drawn, for each resample; the same rows and seed give the same resamples."""
    if rows * times <= _KEPT_VALUES:
        yield from _kept(rows, times, seed)
    else:
        yield from _drawn(rows, times, seed)


def _drawn(rows: int, times: int, seed: int) -> Iterator[Floats]:
    rng = np.random.default_rng([seed, rows])
    for _ in range(times):
        yield np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(np.float64)


@lru_cache(maxsize=4)
def _kept(rows: int, times: int, seed: int) -> tuple[Floats, ...]:
    """Small test sets are resampled for every metric of every RUN: drawing once saves most of the time."""
    kept = tuple(_drawn(rows, times, seed))
    for drawn in kept:
        drawn.flags.writeable = False
    return kept


def draws(
    values: Mapping[str, Floats], *, medians: Mapping[str, str] | None = None, times: int = TIMES, seed: int = 0
) -> dict[str, Floats]:
    """Bootstrap distribution of the mean of each metric.

    Two calls for equally many queries and the same seed resample the same queries: the difference of what they return
    is the paired bootstrap of the difference, their mean that of the mean over runs.

    Args:
        values: Metric name -> (q,) value of each query.
        medians: New name -> the metric whose median is wanted under that name as well.
        times: Resamples.

    Returns:
        Name -> (times,) values.
    """
    stacked = np.stack(list(values.values()), axis=1)
    ordered = {name: (np.argsort(values[of]), np.sort(values[of])) for name, of in (medians or {}).items()}
    found = {name: np.empty(times) for name in (*values, *ordered)}
    for at, drawn in enumerate(weights(len(stacked), times=times, seed=seed)):
        for name, value in zip(values, drawn @ stacked / len(stacked), strict=True):
            found[name][at] = value
        for name, (order, ascending) in ordered.items():
            found[name][at] = _median(drawn[order], ascending)
    return found


def interval(distribution: Floats) -> tuple[float, float]:
    """The central 95% of a bootstrap distribution (percentile interval)."""
    low, high = np.nanquantile(distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _median(drawn: Floats, ascending: Floats) -> float:
    """Median of ascending values, each taken as often as it was drawn."""
    through = np.cumsum(drawn)
    total = int(through[-1])
    low, high = np.searchsorted(through, [(total - 1) // 2, total // 2], side="right")
    return float(ascending[low] + ascending[high]) / 2
