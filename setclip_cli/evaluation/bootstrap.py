"""How sure are we: resampling the queries with replacement (Efron 1979), the same draws for everything compared.

The intervals speak of the queries at hand; that another seed or another draw of pairs gives another model is a separate
spread, which the report shows as the standard deviation over RUNs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

TIMES = 1000
LEVEL = 0.95


def draws(
    runs: Sequence[Mapping[str, Floats]], *, medians: Mapping[str, str] | None = None, times: int = TIMES, seed: int = 0
) -> dict[str, Floats]:
    """Bootstrap distribution of each metric, averaged over the runs of one method.

    Two calls for equally many queries and the same seed resample the same queries, so the difference of what they
    return is the paired bootstrap of the difference.

    Args:
        runs: For each run, metric name -> (q,) value of each query; the same names and queries in each.
        medians: New name -> the metric whose median, not mean, is wanted under that name as well.
        times: Resamples.

    Returns:
        Metric name -> (times,) values.
    """
    names = list(runs[0])
    stacked = np.stack([np.stack([run[name] for name in names], axis=1) for run in runs])  # (runs, q, metrics)
    means = stacked.mean(axis=0)
    wanted = {new: stacked[:, :, names.index(name)] for new, name in (medians or {}).items()}
    ordered = {new: (np.argsort(values, axis=1), np.sort(values, axis=1)) for new, values in wanted.items()}
    found = {name: np.empty(times) for name in (*names, *ordered)}
    for at, weights in enumerate(_weights(means.shape[0], times, seed)):
        for name, value in zip(names, weights @ means / len(weights), strict=True):
            found[name][at] = value
        for name, (order, values) in ordered.items():
            found[name][at] = np.mean([_median(weights[one], row) for one, row in zip(order, values, strict=True)])
    return found


def interval(values: Floats) -> tuple[float, float]:
    """The central 95% of a bootstrap distribution (percentile interval)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _weights(rows: int, times: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn, in each resample."""
    rng = np.random.default_rng([seed, rows])
    for _ in range(times):
        yield np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(np.float64)


def _median(weights: Floats, ascending: Floats) -> float:
    """Median of ascending values, each taken as often as its whole weight says."""
    through = np.cumsum(weights)
    total = int(through[-1])
    low, high = np.searchsorted(through, [(total - 1) // 2, total // 2], side="right")
    return float(ascending[low] + ascending[high]) / 2
