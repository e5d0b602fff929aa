"""Both modalities on one plane, for a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from setclip_cli.embedding.umap_places import NEIGHBOURS, has_umap, umap_places

if TYPE_CHECKING:
    from setclip_cli.evaluation.arrays import Embeddings, Floats, Ints


POINTS_PER_SIDE = 500  # more only cover each other
_FEWEST_FOR_UMAP = 2 * NEIGHBOURS  # rows; with fewer, its neighbourhoods would hold nearly all of them


@dataclass(frozen=True)
class PlaneMap:
    """Coordinates (n, 2) and (m, 2) of the rows of both sides, in [0, 1]."""

    method: str  # PCA | UMAP
    left: Floats
    right: Floats


def sample_rows(rows: int, *, seed: int = 0) -> Ints:
    """The rows that a map shows: all, or ``POINTS_PER_SIDE`` of them at random; ascending."""
    if rows <= POINTS_PER_SIDE:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size=POINTS_PER_SIDE, replace=False))


def plane_map(left: Embeddings, right: Embeddings) -> PlaneMap:
    """Puts both sides on one plane: UMAP (McInnes et al. 2018) if it is installed, else the two leading principal axes.

    A few rows get the axes too. Equal input gives an equal map: the sign of an axis and the seed of UMAP are fixed.
    """
    together = np.concatenate([left, right]).astype(np.float64)
    if len(together) >= _FEWEST_FOR_UMAP and has_umap():
        plane, method = np.asarray(umap_places(together), np.float64), "UMAP"
    else:
        plane, method = _principal_plane(together), "PCA"
    low, high = plane.min(axis=0), plane.max(axis=0)
    scaled = (plane - low) / np.maximum(high - low, 1e-12)
    return PlaneMap(method, scaled[: len(left)], scaled[len(left) :])


def _principal_plane(rows: Floats) -> Floats:
    """(n, 2) coordinates on the two leading principal axes."""
    centred = rows - rows.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T
    if plane.shape[1] < 2:
        plane = np.hstack([plane, np.zeros((len(plane), 2 - plane.shape[1]))])
    flips = np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    return np.asarray(plane * np.where(flips == 0, 1, flips))
