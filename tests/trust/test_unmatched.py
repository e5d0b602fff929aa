"""Rows without a partner: planted ones are found, their share is told, and where there are none, none are claimed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from torch import Tensor
from two_pools import pools

from setclip_cli.errors import SetClipError
from setclip_cli.trust import unmatched
from setclip_cli.trust.unmatched import BINS, posterior, unmatched_rows

CLUSTERS = 8


def world(gone: int, *, known: int = 120, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pools whose right side lacks the first clusters, pairs of the same cluster, and which left rows are lone."""
    left, right = pools(CLUSTERS, 640, 800, seed)
    cluster_of_right = torch.arange(800) % CLUSTERS
    right, cluster_of_right = right[cluster_of_right >= gone], cluster_of_right[cluster_of_right >= gone]
    draw = np.random.default_rng(seed)
    with_partner = [row for row in range(640) if row % CLUSTERS >= gone]
    rows = draw.permutation(with_partner)[:known]
    partners = [draw.choice(np.flatnonzero(cluster_of_right.numpy() == row % CLUSTERS)) for row in rows]
    pairs = torch.tensor(np.stack([rows, partners], 1))
    return left, right, pairs, torch.arange(640) % CLUSTERS < gone


def auroc(scores: Tensor, positive: Tensor) -> float:
    found = mannwhitneyu(scores[positive], scores[~positive]).statistic
    return float(found / (int(positive.sum()) * int((~positive).sum())))


@pytest.mark.parametrize("gone", [2, 4])
def test_rows_of_clusters_that_the_other_side_lacks_are_found(gone: int) -> None:
    left, right, pairs, lone = world(gone)
    found, other = unmatched_rows(left, right, pairs, torch.arange(len(pairs)))
    free = torch.ones(len(left), dtype=torch.bool)
    free[pairs[:, 0]] = False
    assert auroc(found.probabilities[free], lone[free]) > 0.95
    assert found.share == pytest.approx(gone / CLUSTERS, abs=0.1)
    assert found.interval[0] - 0.02 <= gone / CLUSTERS <= found.interval[1] + 0.02
    assert found.certain
    assert found.difference == pytest.approx(found.share, abs=0.15)  # the clusters lie far apart
    assert found.difference_interval[0] <= found.difference <= found.difference_interval[1]
    assert not other.certain
    assert float(found.probabilities.mean()) == pytest.approx(found.share, abs=0.03)
    assert not found.probabilities[pairs[:, 0]].any()


@pytest.mark.parametrize("seed", range(3))
def test_where_every_row_has_a_partner_nothing_is_certain(seed: int) -> None:
    left, right, pairs, _ = world(0, seed=seed)
    for side in unmatched_rows(left, right, pairs, torch.arange(len(pairs))):
        assert not side.certain
        assert side.share < 0.2


def test_the_order_of_the_rows_and_a_rotation_of_the_features_mean_nothing() -> None:
    left, right, pairs, _ = world(4)
    items = torch.arange(len(pairs))
    before = unmatched_rows(left, right, pairs, items)[0]
    order = torch.randperm(len(left), generator=torch.Generator().manual_seed(1))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    turned = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(2)))[0]
    moved = torch.stack([place[pairs[:, 0]], pairs[:, 1]], 1)
    after = unmatched_rows(left[order] @ turned, right, moved, items)[0]
    assert after.share == pytest.approx(before.share, abs=0.03)
    assert torch.allclose(after.probabilities, before.probabilities[order], atol=0.1)


def test_a_pool_larger_than_the_sample_is_scored_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right, pairs, lone = world(4)
    monkeypatch.setattr(unmatched, "ROWS", 200)
    monkeypatch.setattr(unmatched, "BLOCK", 64)
    found, _ = unmatched_rows(left, right, pairs, torch.arange(len(pairs)))
    assert len(found.probabilities) == len(left)
    assert auroc(found.probabilities, lone) > 0.9
    assert found.share == pytest.approx(0.5, abs=0.2)


def test_an_item_with_many_texts_counts_once() -> None:
    """Five copies of the right side of each pair, each known: nothing new is known of the left rows."""
    left, right, pairs, _ = world(4)
    items = torch.arange(len(pairs))
    one = unmatched_rows(left, right, pairs, items)[0]
    more = torch.cat([right, *[right[pairs[:, 1]]] * 4])
    copies = [
        torch.stack([pairs[:, 0], len(right) + number * len(pairs) + torch.arange(len(pairs))], 1)
        for number in range(4)
    ]
    five = unmatched_rows(left, more, torch.cat([pairs, *copies]), items.repeat(5))[0]
    width = [side.interval[1] - side.interval[0] for side in (one, five)]
    assert width[1] > 0.6 * width[0]


@pytest.mark.parametrize("known", [(0,), (1,), (0, 1)])
def test_a_pool_whose_rows_are_all_known_has_no_row_without_a_partner(known: tuple[int, ...]) -> None:
    sides = [side[:60] for side in pools(CLUSTERS, 640, 800)]
    pairs = torch.arange(60).repeat(2, 1).T if len(known) == 2 else torch.arange(60).repeat(2, 1).T % 59
    if len(known) < 2:
        pairs[:, known[0]] = torch.arange(60)  # the other side has one row that is not known
    found = unmatched_rows(sides[0], sides[1], pairs, torch.arange(60))
    for number in known:
        assert found[number].share == 0
        assert not found[number].certain
        assert not found[number].probabilities.any()
    assert all(bool(torch.isfinite(side.probabilities).all()) for side in found)


def test_two_known_rows_of_a_side_say_nothing_about_it() -> None:
    left, right, pairs, _ = world(4)
    pairs[:, 1] = pairs[:, 1] % 2
    found = unmatched_rows(left, right, pairs, torch.arange(len(pairs)))
    assert found[1].interval == (0, 1)
    assert not found[1].certain
    assert not found[1].probabilities.any()


def test_few_known_items_are_too_few() -> None:
    left, right, pairs, _ = world(4, known=19)
    with pytest.raises(SetClipError, match="19 known items: too few") as caught:
        unmatched_rows(left, right, pairs, torch.arange(19))
    assert "20 known items" in caught.value.fix


@pytest.mark.parametrize(("share", "distance"), [(0.3, 1.6), (0.5, 2.0), (0.8, 1.0)])
def test_the_density_of_ranks_is_that_of_drawn_scores(share: float, distance: float) -> None:
    """A second derivation: ranks of drawn scores of rows with a partner within a drawn pool."""
    draw = np.random.default_rng(0)
    with_partner = draw.normal(size=400_000)
    pool = np.sort(draw.normal(size=400_000) + distance * (draw.random(400_000) > share))
    ranks = np.searchsorted(pool, with_partner) / len(pool)
    counted = np.histogram(ranks, bins=20, range=(0, 1))[0] / len(ranks) * 20
    matched, distances, density = unmatched._binormal()
    row, column = int(np.abs(matched - share).argmin()), int(np.abs(distances - distance).argmin())
    assert matched[row] == pytest.approx(share)
    expected = density[row, column].reshape(20, BINS // 20).mean(1)
    assert np.allclose(counted, expected, atol=0.05)


def test_ranks_that_say_all_say_so() -> None:
    even = (torch.arange(200) + 0.5) / 200
    everything = posterior(even, torch.ones(200))
    assert everything.share < 0.1
    half = posterior(even / 2, torch.ones(200))  # known rows are the lower half of the pool
    assert half.share == pytest.approx(0.5, abs=0.05)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=80))
def test_a_later_rank_is_never_likelier_to_have_a_partner(ranks: list[float]) -> None:
    found = posterior(torch.tensor(ranks), torch.ones(len(ranks)))
    assert (np.diff(found.unmatched) >= 0).all()
    assert 0 <= found.interval[0] <= found.interval[1] <= 1
    assert 0 <= found.unmatched.min() <= found.unmatched.max() <= 1
