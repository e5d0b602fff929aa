"""The method ``transport`` and its two maps, on pools whose partners are known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor
from worlds import SCORED, curved_world, linear_world, pools

from setclip_cli.encoders import Encoder, KernelMap, encoder_from_description
from setclip_cli.errors import SetClipError
from setclip_cli.losses.sinkhorn import sinkhorn
from setclip_cli.methods.held_out import LEAST_ITEMS
from setclip_cli.methods.kernel_regression import RIDGE, WIDTH, fit_kernel_regression
from setclip_cli.methods.partners import DEFAULT, fit_partner_maps
from setclip_cli.methods.transport import (
    SHARE,
    START_WEIGHT,
    SWEEPS,
    TEMPERATURE,
    Covariances,
    balanced_plan,
    canonical_maps,
    fit_transport,
)
from setclip_cli.vectors import unusable_rows


def recall_at_5(encoders: tuple[Encoder, Encoder], left: Tensor, right: Tensor) -> float:
    """Of the last ``SCORED`` rows among each other."""
    with torch.no_grad():
        cosines = encoders[0](left[-SCORED:]) @ encoders[1](right[-SCORED:]).T
    ranks = (cosines > cosines.diag()[:, None]).sum(1)
    return float((ranks < 5).float().mean())


def test_the_plan_is_that_of_sinkhorn_with_logarithms() -> None:
    rows = F.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    cosines = rows[:25] @ rows[25:].T
    plan = balanced_plan(cosines, 0.05)
    torch.testing.assert_close(plan, sinkhorn(cosines / 0.05, SWEEPS).exp(), rtol=1e-4, atol=1e-9)
    assert float(plan.sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(plan.sum(0), torch.full((15,), 1 / 15), rtol=1e-4, atol=0)


def test_the_plan_of_opposite_and_equal_rows_is_finite() -> None:
    cosines = torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, -1.0]])
    plan = balanced_plan(cosines, 0.05)
    assert bool(torch.isfinite(plan).all())
    torch.testing.assert_close(plan.sum(0), torch.full((2,), 0.5), rtol=1e-4, atol=0)


def test_without_unpaired_rows_it_is_ridged_cca_by_another_derivation() -> None:
    """The correlations are the roots of a generalised eigenproblem (Hotelling 1936)."""
    left, right = (side[:60].double() for side in linear_world())
    pairs = torch.arange(60).repeat(2, 1).T
    maps = fit_transport(left.float(), right.float(), pairs, seed=0, share=0)
    a, b = (side.numpy() - side.numpy().mean(0) for side in (left, right))
    within = [
        rows.T @ rows / 60 + np.linalg.eigvalsh(rows.T @ rows / 60).mean() * np.eye(rows.shape[1]) for rows in (a, b)
    ]
    across = a.T @ b / 60
    joint = np.block([[np.zeros((60, 60)), across], [across.T, np.zeros((50, 50))]])
    roots = scipy.linalg.eigh(joint, scipy.linalg.block_diag(*within), eigvals_only=True)[::-1][:50]
    # Each direction w of the map has wᵀ (C + ridge) w = correlation².
    weight = maps[0].weight.double().numpy()
    assert np.sqrt(np.diag(weight.T @ within[0] @ weight)) == pytest.approx(roots, abs=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_without_a_partner_help_where_both_sides_vary_together(seed: int) -> None:
    left, right = linear_world(seed=seed)
    x, y, pairs = pools(left, right, known=40)
    alone = recall_at_5(fit_transport(x, y, pairs, seed=0, share=0), left, right)
    together = recall_at_5(fit_transport(x, y, pairs, seed=0), left, right)
    assert together > alone + 0.15, (together, alone)


def test_the_order_of_the_pools_means_nothing() -> None:
    left, right = linear_world()
    x, y, pairs = pools(left, right, known=12)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(5))
    moved = torch.stack([pairs[:, 0], order.argsort()[pairs[:, 1]]], dim=1)
    found = [fit_transport(x, y, pairs, seed=0), fit_transport(x, y[order], moved, seed=0)]
    cosines = [maps[0](x) @ maps[1](y).T for maps in found]
    torch.testing.assert_close(*cosines, rtol=0, atol=1e-3)


def test_items_with_several_partners_are_the_regression_on_single_pairs() -> None:
    left, right = (side[:30] for side in curved_world())
    pairs = torch.tensor([[row, other] for row in range(10) for other in (row, row + 10, row + 20)])
    maps = fit_kernel_regression(left, right, pairs, seed=0)
    own = maps[1].encoders[0].project(right)
    anchors = F.normalize(left[pairs[:, 0]], dim=1).double()
    kernel = torch.exp((anchors @ anchors.T - 1) / WIDTH)
    coefficients = torch.linalg.solve(kernel + RIDGE * torch.eye(30).double(), own[pairs[:, 1]].double())
    expected = torch.exp((F.normalize(left, dim=1).double() @ anchors.T - 1) / WIDTH) @ coefficients
    found = maps[0].encoders[0](left)
    torch.testing.assert_close(found, F.normalize(expected, dim=1).float(), rtol=0, atol=1e-4)


def test_the_choice_follows_the_data() -> None:
    """Where the sides vary together linearly the regression gets little weight, else it carries the result."""
    for world, known, of_kernel in ((linear_world(), 60, (0.0, 0.5)), (curved_world(), 200, (1.0, 1.5, 4.0))):
        x, y, pairs = pools(*world, known=known)
        maps = fit_partner_maps(x, y, pairs, axes=0, seed=0)
        assert maps.shares.kernel in of_kernel
        assert maps.score is not None
        of_map = recall_at_5(maps.encoders, *world)
        others = [
            recall_at_5(fitted, *world)
            for fitted in (fit_kernel_regression(x, y, pairs, seed=0), fit_transport(x, y, pairs, seed=0, share=0))
        ]
        assert of_map > min(others) + 0.1
        assert of_map > max(others) - 0.05


def test_few_items_decide_nothing() -> None:
    x, y, pairs = pools(*linear_world(), known=LEAST_ITEMS - 1)
    several = torch.cat([pairs, pairs])  # more pairs, not more items
    maps = fit_partner_maps(x, y, several, axes=0, seed=0)
    assert (maps.shares, maps.score) == (DEFAULT, None)
    assert "transport/held_out_score" not in maps.findings()
    x, y, pairs = pools(*linear_world(), known=2 * LEAST_ITEMS - 2)
    joined = torch.arange(len(pairs)) // 2  # two left rows each, as two images with one group of captions
    assert fit_partner_maps(x, y, pairs, axes=0, seed=0, items=joined).score is None
    assert fit_partner_maps(x, y, pairs, axes=0, seed=0).score is not None


def test_the_same_seed_gives_the_same_bytes_and_a_round_trip_keeps_them() -> None:
    left, right = curved_world()
    x, y, pairs = pools(left, right, known=80)
    first, second = (fit_partner_maps(x, y, pairs, axes=0, seed=3) for _ in range(2))
    for one, other, side in zip(first.encoders, second.encoders, (left, right), strict=True):
        assert torch.equal(one(side), other(side))
        loaded = encoder_from_description(one.describe())
        loaded.load_state_dict(one.state_dict())
        assert torch.equal(loaded(side), one(side))


def test_a_kernel_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="width"):
        KernelMap(torch.eye(2), torch.eye(2), 0.0)


@pytest.mark.parametrize("known", [2, 3, 25])
def test_pools_without_any_other_row_are_fitted_to_the_pairs(known: int) -> None:
    left, right = (side[:known] for side in linear_world())
    maps = fit_partner_maps(left, right, torch.arange(known).repeat(2, 1).T, axes=0, seed=0)
    for encoder, side in zip(maps.encoders, (left, right), strict=True):
        assert not unusable_rows(encoder(side).numpy())


def test_pairs_of_equal_items_and_pairs_that_name_no_row_are_refused() -> None:
    left, right = (side[:30].clone() for side in linear_world())
    left[:4], right[:4] = left[0], right[0]
    for pairs, named in ((torch.arange(4).repeat(2, 1).T, "zero"), (torch.tensor([[0, 1], [99, 2]]), "name rows")):
        with pytest.raises(SetClipError, match=named):
            fit_partner_maps(left, right, pairs, axes=0, seed=0)


def test_shares_can_be_chosen_on_other_features_of_the_same_rows() -> None:
    """Features that were trained on the pairs place every partner alike, so that any shares look right on them."""
    left, right, pairs = pools(*linear_world(), known=60)
    curved = pools(*(side[: len(left) + SCORED] for side in curved_world(len(left) + SCORED)), known=60)
    own, told = (fit_partner_maps(*side, pairs, axes=0, seed=0) for side in ((left, right), curved[:2]))
    assert own.shares != told.shares
    asked = fit_partner_maps(left, right, pairs, axes=0, seed=0, chosen_on=curved[:2])
    assert (asked.shares, asked.score) == (told.shares, told.score)


@pytest.mark.parametrize("known", [0, 30])
def test_a_start_is_matched_by_its_centred_cosines_beside_those_of_the_maps(known: int) -> None:
    left, right = linear_world(300)
    pairs = torch.arange(known).repeat(2, 1).T
    draw = torch.Generator().manual_seed(3)
    start = torch.randn(300, 8, generator=draw), torch.randn(300, 8, generator=draw)
    moved = start[0] + 5 * torch.randn(8, generator=draw), start[1]
    found, same = (fit_transport(left, right, pairs, seed=0, rounds=1, start=each) for each in (start, moved))
    for one, other, rows in zip(found, same, (left, right), strict=True):
        torch.testing.assert_close(one(rows), other(rows), atol=1e-3, rtol=0)
    begun = [F.normalize(side - side.mean(0), dim=1) for side in start]
    free = torch.arange(known, 300)
    a, b = (side.double() for side in (left, right))
    centred = [side[free] - side[free].mean(0) for side in (a, b)]
    within = [rows.T @ rows / len(free) for rows in centred]
    cosines, weight = begun[0][free] @ begun[1][free].T, 1.0
    centres, across, share = (left.mean(0), right.mean(0)), 0.0, 1.0
    if known:
        p, q = (side[:known] - side[:known].mean(0) for side in (a, b))
        centres, across, share = (left[:known].mean(0), right[:known].mean(0)), p.T @ q / known, SHARE
        of_known = (p.T @ p / known, q.T @ q / known)
        within = [(1 - SHARE) * mine + SHARE * theirs for mine, theirs in zip(of_known, within, strict=True)]
        first = canonical_maps(Covariances(within[0], within[1], across), centres)
        cosines, weight = first[0](left[free]) @ first[1](right[free]).T + START_WEIGHT * cosines, 1 + START_WEIGHT
    plan = balanced_plan(cosines / weight, TEMPERATURE).double()
    mixed = (1 - share) * across + share * (centred[0].T @ plan @ centred[1])
    expected = canonical_maps(Covariances(within[0], within[1], mixed), centres)
    for one, other, rows in zip(found, expected, (left, right), strict=True):
        assert torch.allclose(one(rows) @ one(rows).T, other(rows) @ other(rows).T, atol=1e-3)
