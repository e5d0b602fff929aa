"""The lengths (norms) of the vectors of a source, counted shard by shard: smallest, median, largest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_BINS_OF_A_DOUBLING = 64  # a bin is 1.1% wide
_BLOCK_ROWS = 4096


def norm_counts(table: pa.Table) -> dict[str, Any] | None:
    """Counts of one shard, which `add_norms` adds up; None if its rows are not vectors.

    The key of a bin is 64 times the logarithm (base 2) of a norm, as a whole number.
    """
    if "vector" not in table.column_names or not table.num_rows:
        return None
    kind = table.schema.field("vector").type
    parts = []
    for batch in table.select(["vector"]).to_batches(max_chunksize=_BLOCK_ROWS):
        values = batch["vector"].flatten().to_numpy().reshape(-1, kind.list_size).astype(np.float32, copy=False)
        parts.append(np.sqrt(np.einsum("ij,ij->i", values, values).astype(np.float64)))
    norms = np.concatenate(parts)
    bins, counts = np.unique(np.rint(np.log2(norms) * _BINS_OF_A_DOUBLING).astype(int), return_counts=True)
    return {
        "width": kind.list_size,
        "dtype": np.dtype(kind.value_type.to_pandas_dtype()).name,
        "min": float(norms.min()),
        "max": float(norms.max()),
        "bins": dict(zip(map(str, bins.tolist()), counts.tolist(), strict=True)),
    }


def add_norms(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the entry of a source says about its vectors, from the counts of its shards. The median is right to 1%."""
    bins: Counter[int] = Counter()
    for part in parts:
        bins.update({int(key): count for key, count in part["bins"].items()})
    smallest, largest = min(part["min"] for part in parts), max(part["max"] for part in parts)
    seen = 0
    median = smallest
    for key, count in sorted(bins.items()):
        seen += count
        if 2 * seen >= bins.total():
            median = min(max(2 ** (key / _BINS_OF_A_DOUBLING), smallest), largest)
            break
    norm = {"min": smallest, "median": median, "max": largest}
    return {"width": parts[0]["width"], "dtype": parts[0]["dtype"], "norm": norm}


def norm_line(entry: dict[str, Any]) -> str:
    """The line of the summary."""
    norm = entry["norm"]
    return (
        f"{entry['width']:,} numbers of {entry['dtype']}; their lengths (norms) are {norm['min']:.4g} to "
        f"{norm['max']:.4g}, median {norm['median']:.3g}"
    )
