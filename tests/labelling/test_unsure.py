"""Of which rows a RUN is unsure."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from setclip_cli.labelling.unsure import return_trips


def kinds(count: int, seed: int) -> torch.Tensor:
    """Unit rows around four points, ``count`` of each."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.eye(4).repeat_interleave(count, 0)
    return F.normalize(centres + 0.05 * torch.randn(4 * count, 4, generator=random), dim=1)


def test_rows_that_are_drawn_to_another_kind_are_unsure_and_the_others_are_not() -> None:
    features, other = kinds(20, seed=0), kinds(15, seed=1)
    own = features.clone()
    lost = torch.arange(80) >= 60
    own[lost] = other[torch.arange(20) % 15]  # by the RUN, the fourth kind lies among the first
    found = return_trips(own, other, features)
    assert found.shape == (80,)
    assert float(found[:60].median()) < 0.2
    # Both kinds meet the first kind of the other side, and the way back may end at either.
    kept = return_trips(features, other, features)
    assert float(kept.max()) < 0.2
    assert float(found[lost].mean()) > float(kept[lost].mean()) + 0.3


def test_an_alignment_that_says_nothing_is_unsure_of_everything() -> None:
    features = kinds(20, seed=0)
    random = torch.Generator().manual_seed(2)
    own, other = (F.normalize(torch.randn(80, 8, generator=random), dim=1) for _ in range(2))
    assert float(return_trips(own, other, features).mean()) > 0.7


def test_large_pools_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    features, other = kinds(30, seed=0), kinds(25, seed=1)
    whole = return_trips(features, other, features)
    monkeypatch.setattr("setclip_cli.labelling.unsure.ROWS", 40)
    found = return_trips(features, other, features)
    assert found.shape == whole.shape
    assert float(found.max()) < 0.2


def test_few_rows_do_not_stop_it() -> None:
    for rows in (1, 2, 3):
        found = return_trips(torch.ones(rows, 1), torch.ones(2, 1), torch.ones(rows, 3))
        assert found.isfinite().all()
