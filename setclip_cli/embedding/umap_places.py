"""UMAP: a place in the plane for every row; rows that are near each other get places that are near each other."""

from __future__ import annotations

import importlib
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

NEIGHBOURS = 15  # of each row that UMAP keeps near; its own default
_COMPARED_ROWS = 4096  # up to so many, UMAP compares all rows with each other
Places: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def has_umap() -> bool:
    """Whether UMAP is installed completely."""
    with _as_before():
        try:
            return hasattr(importlib.import_module("umap"), "UMAP")
        except ImportError:
            return False


def umap_places(rows: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> Places:
    """(n, 2) places of n > `NEIGHBOURS` rows by their cosines (McInnes et al. 2018, arXiv 1802.03426).

    The same rows get the same places: the seed is fixed.
    """
    with _as_before():
        umap: Any = importlib.import_module("umap")
        known = {"precomputed_knn": _neighbours(rows)} if len(rows) <= _COMPARED_ROWS else {}
        layout = umap.UMAP(n_neighbors=NEIGHBOURS, min_dist=0.1, metric="cosine", random_state=0, n_jobs=1, **known)
        return np.asarray(layout.fit_transform(rows), np.float32)


def _neighbours(rows: Any) -> tuple[Any, Any]:
    """(n, k) the rows nearest to each row, itself among them, and their distances: exact, as UMAP has them.

    UMAP would call Python for each pair of rows and compile a function for their order, for seconds in each process.
    """
    from sklearn.neighbors import NearestNeighbors  # comes with UMAP

    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine", algorithm="brute").fit(rows)
    distances, found = nearest.kneighbors(rows)
    return found.astype(np.int32), distances.astype(np.float32)


@contextmanager
def _as_before() -> Iterator[None]:
    """Keeps the number of threads of torch: Numba, on which UMAP stands, sets that of the whole process."""
    import torch

    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        # about TensorFlow, which a map does not need; that one seed means one thread; how Numba compiles
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.set_num_threads(threads)
