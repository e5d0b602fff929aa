"""Which known pairs are likely wrong: the closed form, what it finds, and what must not matter to it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from setclip_cli.trust import suspects
from setclip_cli.trust.suspects import left_out_regression, left_out_smoother, mixture, suspect_scores

Pools = tuple[Tensor, Tensor]


def two_views(rows: int, seed: int, noise: float = 0.4) -> Pools:
    """Row i of one belongs to row i of the other."""
    draw = torch.Generator().manual_seed(seed)
    factors = torch.randn(rows, 6, generator=draw)
    left, right = (
        factors @ torch.randn(6, width, generator=draw) + noise * torch.randn(rows, width, generator=draw)
        for width in (24, 16)
    )
    return left, right


def with_wrong(count: int, wrong: int) -> tuple[Tensor, Tensor]:
    """Pairs of the first rows, the first ``wrong`` of which have each other's partners; and which these are."""
    rows = torch.arange(count)
    partners = torch.cat([rows[:wrong].roll(1), rows[wrong:]])
    return torch.stack([rows, partners], 1), rows < wrong


def refitted_regression(rows: Tensor, targets: Tensor, items: Tensor, weights: Tensor, item: int) -> Tensor:
    """Kernel ridge regression of the other items alone, at the rows of this one."""
    other, own = items != item, items == item
    unit = F.normalize(rows.double(), dim=1)
    kernel = ((unit @ unit.T - 1) / suspects.WIDTH).exp()
    ridged = kernel[other][:, other] + suspects.RIDGE * torch.diag(1 / weights[other].double())
    return kernel[own][:, other] @ torch.linalg.solve(ridged, targets[other].double())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), items=st.integers(3, 9), most=st.integers(1, 4))
def test_leaving_an_item_out_is_the_same_as_a_fit_without_it(seed: int, items: int, most: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, most + 1, (items,), generator=draw)
    numbers = torch.repeat_interleave(torch.arange(items), counts)
    numbers = numbers[torch.randperm(len(numbers), generator=draw)]
    rows, targets = (torch.randn(len(numbers), width, generator=draw) for width in (5, 4))
    weights = torch.rand(len(numbers), generator=draw) + 0.05
    found = left_out_regression(rows, targets, numbers, weights)
    smooth = left_out_smoother(rows, targets, numbers, weights)
    for item in range(items):
        own, other = numbers == item, numbers != item
        again = refitted_regression(rows, targets, numbers, weights, item)
        torch.testing.assert_close(found[own].double(), again, atol=1e-5, rtol=1e-5)
        likeness = F.normalize(rows, dim=1)[own] @ F.normalize(rows, dim=1)[other].T
        likeness = likeness.clamp_min(0) ** suspects.POWER * weights[other]
        centred = targets - weights @ targets / weights.sum()
        torch.testing.assert_close(smooth[own], likeness @ centred[other], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_wrong_pairs_come_first(seed: int) -> None:
    x, y = two_views(400, seed)
    pairs, wrong = with_wrong(120, 12)
    found = suspect_scores(x, y, pairs, pairs[:, 0])
    assert wrong[found.order()[:12]].float().mean() >= 10 / 12
    likely = found.likely()
    assert wrong[likely].float().mean() > 0.75
    assert 8 <= found.expected <= 20
    assert found.interval[0] <= 12 <= found.interval[1] + 2


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_clean_pairs_flag_nothing(seed: int) -> None:
    x, y = two_views(400, seed)
    pairs, _ = with_wrong(120, 0)
    assert len(suspect_scores(x, y, pairs, pairs[:, 0]).likely()) == 0


def test_one_strange_text_of_an_item_is_found_among_its_texts() -> None:
    x, y = two_views(60, 5)
    texts = y.repeat_interleave(4, 0) + 0.3 * torch.randn(240, 16, generator=torch.Generator().manual_seed(1))
    pairs = torch.stack([torch.arange(60).repeat_interleave(4), torch.arange(240)], 1)
    strange = torch.tensor([0, 51, 102, 201])
    pairs[strange, 1] = pairs[strange.roll(1), 1]
    found = suspect_scores(x, texts, pairs, pairs[:, 0])
    assert set(found.order()[:4].tolist()) == set(strange.tolist())
    assert found.of_texts[strange].min() > 0.5 > found.of_item[strange].max()


def test_whole_items_with_each_others_texts_are_found_across_the_sides() -> None:
    x, y = two_views(400, 7)
    texts = y.repeat_interleave(3, 0) + 0.3 * torch.randn(1200, 16, generator=torch.Generator().manual_seed(1))
    left = torch.arange(100).repeat_interleave(3)
    swapped = torch.where(left < 8, (left + 1) % 8, left)
    pairs = torch.stack([swapped, torch.arange(300)], 1)
    found = suspect_scores(x, texts, pairs, pairs[:, 0])
    wrong = left < 8
    assert wrong[found.order()[:24]].float().mean() > 0.8
    assert found.of_item[wrong].mean() > 0.6


def test_neither_the_order_of_pairs_nor_a_turn_of_the_features_matters() -> None:
    x, y = two_views(300, 3)
    pairs, _ = with_wrong(80, 8)
    found = suspect_scores(x, y, pairs, pairs[:, 0])
    order = torch.randperm(80, generator=torch.Generator().manual_seed(2))
    again = suspect_scores(x, y, pairs[order], pairs[order, 0])
    torch.testing.assert_close(again.probability, found.probability[order], atol=1e-4, rtol=1e-4)
    turn = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(4)))[0]
    turned = suspect_scores(3 * x @ turn, y, pairs, pairs[:, 0])
    torch.testing.assert_close(turned.probability, found.probability, atol=1e-3, rtol=1e-3)


def test_items_numbered_anyhow_are_the_same_items() -> None:
    x, y = two_views(200, 3)
    pairs, _ = with_wrong(60, 6)
    found = suspect_scores(x, y, pairs, pairs[:, 0])
    again = suspect_scores(x, y, pairs, 7 * pairs[:, 0] + 100)
    assert torch.equal(found.probability, again.probability)


def test_repeated_pairs_and_equal_rows_are_finite() -> None:
    x, y = two_views(200, 3)
    y[:50] = y[0]
    pairs, _ = with_wrong(60, 0)
    pairs = torch.cat([pairs, pairs[:20]])
    found = suspect_scores(x, y, pairs, pairs[:, 0])
    for values in (found.probability, found.better_items, found.of_item, found.of_texts):
        assert bool(torch.isfinite(values).all())
    assert found.others.unique().tolist() == [59]


def test_all_rows_equal_says_nothing_and_does_not_fail() -> None:
    x, y = torch.ones(60, 8), torch.ones(60, 8)
    pairs, _ = with_wrong(40, 4)
    found = suspect_scores(x, y, pairs, pairs[:, 0])
    assert bool(torch.isfinite(found.probability).all())
    assert len(found.likely()) == 0


@pytest.mark.parametrize("score", [3.0, 7.3])
def test_perfect_pairs_are_right(score: float) -> None:
    """All scores are above all of the null, so they are equal in its ranks, and their mean is rounded up or down."""
    null = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    for count in range(20, 420):
        found = mixture(torch.full((count,), score) + torch.arange(count) / 1000, null.clamp_max(2.9), 0.1)
        assert bool(found.wrong.isfinite().all())
        assert float(found.wrong.max()) < 0.01


def test_blocks_judge_more_pairs_than_fit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = two_views(400, 1)
    pairs, wrong = with_wrong(200, 20)
    monkeypatch.setattr(suspects, "BLOCK", 100)
    found = suspect_scores(x, y, pairs, pairs[:, 0])
    assert int(found.others.max()) < 199
    assert wrong[found.order()[:20]].float().mean() > 0.7
    assert torch.equal(found.probability, suspect_scores(x, y, pairs, pairs[:, 0]).probability)


def test_too_few_items_are_refused() -> None:
    x, y = two_views(50, 0)
    pairs, _ = with_wrong(suspects.LEAST_ITEMS - 1, 0)
    with pytest.raises(ValueError, match="needs 20 items or more; got 19"):
        suspect_scores(x, y, pairs, pairs[:, 0])


def test_who_fits_better_is_counted_in_the_right_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = two_views(100, 0)
    pairs, _ = with_wrong(30, 0)
    fits = 5 * torch.eye(30)
    fits[3, 7], fits[4, 7], fits[9, 0] = 7.0, 6.0, 8.0  # left of items 3 and 4 fit the partner of item 7 better
    monkeypatch.setattr(suspects, "_fits", lambda *_: fits)
    found = suspect_scores(x, y, pairs, pairs[:, 0])
    assert {row: count for row, count in enumerate(found.better_items.tolist()) if count} == {0: 1, 7: 2}
    assert {row: count for row, count in enumerate(found.better_partners.tolist()) if count} == {3: 1, 4: 1, 9: 1}
    assert (int(found.nearest[7]), int(found.nearest[0])) == (3, 9)
    assert bool((found.nearest != torch.arange(30)).all())


@pytest.mark.parametrize("block", [2_000, 60])
def test_the_owner_of_a_wrong_partner_fits_it_best(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(suspects, "BLOCK", block)
    monkeypatch.setattr(suspects, "LEAST_ITEMS", 10)
    x, y = two_views(400, 2, noise=0.1)
    pairs, wrong = with_wrong(120, 10)
    pairs = pairs[torch.randperm(120, generator=torch.Generator().manual_seed(1))]
    found = suspect_scores(x, y, pairs, pairs[:, 0])
    owner = pairs[found.nearest, 0] == pairs[:, 1]
    wrong = pairs[:, 0] != pairs[:, 1]
    if block == 2_000:  # else the owner may be in another block
        assert owner[wrong].float().mean() >= 0.5
    assert bool((found.nearest != torch.arange(120)).all())
    likeness = F.cosine_similarity(x[pairs[found.nearest, 0]], x[pairs[:, 1]])
    assert likeness.mean() > 0.5  # left rows like that of the true owner


def test_a_few_items_with_several_texts_are_too_few_to_compare_texts() -> None:
    x, y = two_views(100, 5)
    left = torch.cat([torch.arange(40), torch.arange(5), torch.arange(5)])
    pairs = torch.stack([left, torch.arange(50)], 1)
    assert not suspect_scores(x, y, pairs, pairs[:, 0]).of_texts.any()
