"""UMAP in this process: it leaves the threads of torch alone, and is given the neighbours that it would find."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from setclip_cli.embedding.umap_places import NEIGHBOURS, umap_places
from setclip_cli.evaluation.plane_map import plane_map

umap = pytest.importorskip("umap", reason="umap-learn is not installed", exc_type=ImportError)
ROWS = np.random.default_rng(0).standard_normal((120, 8)).astype(np.float32)


def test_the_maps_leave_the_threads_of_torch_as_they_were() -> None:
    """Sums in another order are other bits."""
    before = torch.get_num_threads()
    assert plane_map(ROWS[:60], ROWS[60:]).method == "UMAP"
    assert torch.get_num_threads() == before
    umap_places(ROWS)
    assert torch.get_num_threads() == before


def test_its_neighbours_are_given_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], umap.UMAP.fit_transform

    def noting(self: Any, rows: np.ndarray) -> Any:
        made.append(self)
        return real(self, rows)

    monkeypatch.setattr(umap.UMAP, "fit_transform", noting)
    places = umap_places(ROWS)
    [ours] = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = umap.UMAP(metric="cosine", n_neighbors=NEIGHBOURS, random_state=0, n_jobs=1)
        alone.fit(ROWS)
    assert ours.precomputed_knn[0].shape == (120, NEIGHBOURS)
    np.testing.assert_allclose(ours.graph_.toarray(), alone.graph_.toarray(), atol=1e-4)
    assert places.shape == (120, 2)


def test_more_rows_than_it_compares_with_each_other_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    class Kept:
        def __init__(self, **words: object) -> None:
            given.append(words)

        def fit_transform(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, :2]

    monkeypatch.setattr(umap, "UMAP", Kept)
    for rows in (4096, 4097):
        umap_places(np.ones((rows, 3), np.float32))
    assert ["precomputed_knn" in words for words in given] == [True, False]
