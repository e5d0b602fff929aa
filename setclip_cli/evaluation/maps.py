"""Both modalities drawn on one plane."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Embeddings = npt.NDArray[np.float32]
    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

POINTS = 500  # of each modality; more only cover each other


@dataclass(frozen=True)
class PlaneMap:
    """Where the drawn rows of both sides fall; coordinates lie in [0, 1]."""

    method: str  # PCA | UMAP
    left: Floats
    right: Floats


def drawn_rows(rows: int, *, seed: int = 0) -> Ints:
    """Which rows a map shows: all, or ``POINTS`` of them at random; ascending."""
    if rows <= POINTS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size=POINTS, replace=False))


def plane_map(left: Embeddings, right: Embeddings) -> PlaneMap:
    """Lays both sides out together: UMAP (McInnes et al. 2018) when installed, else the two leading principal axes.

    The sign of an axis is fixed, so that equal input gives an equal map.
    """
    together = np.concatenate([left, right]).astype(np.float64)
    if importlib.util.find_spec("umap") is not None:
        import umap

        plane = np.asarray(umap.UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(together))
        method = "UMAP"
    else:
        centred = together - together.mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        plane, method = centred @ axes[:2].T, "PCA"
        if plane.shape[1] < 2:
            plane = np.hstack([plane, np.zeros((len(plane), 2 - plane.shape[1]))])
        flips = np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
        plane = plane * np.where(flips == 0, 1, flips)
    low, high = plane.min(axis=0), plane.max(axis=0)
    scaled = (plane - low) / np.maximum(high - low, 1e-12)
    return PlaneMap(method, scaled[: len(left)], scaled[len(left) :])
