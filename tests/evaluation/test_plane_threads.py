"""A map does not change in how many threads the process computes: sums in another order are other bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from setclip_cli.embedding.map import _umap
from setclip_cli.evaluation.plane_map import plane_map


def test_the_maps_leave_the_threads_of_torch_as_they_were() -> None:
    pytest.importorskip("umap")
    rows = np.random.default_rng(0).standard_normal((120, 8)).astype(np.float32)
    before = torch.get_num_threads()
    assert plane_map(rows[:60], rows[60:]).method == "UMAP"
    assert torch.get_num_threads() == before
    _umap(rows)
    assert torch.get_num_threads() == before
