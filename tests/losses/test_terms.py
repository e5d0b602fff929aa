"""The other terms: second derivations as plain loops, limits, gradients, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from setclip_cli.losses.clip import clip, shared_partners
from setclip_cli.losses.mk_mmd import mk_mmd
from setclip_cli.losses.neighbourhood import neighbourhood
from setclip_cli.losses.s_clip import s_clip
from setclip_cli.losses.self_supervised import self_supervised
from setclip_cli.losses.sinkhorn import sinkhorn
from setclip_cli.losses.teacher import teacher

Rows = list[list[float]]


def unit(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1).to(
        dtype
    )


def dot(a: list[float], b: list[float]) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True))


def cross_entropy(logits: list[float], target: dict[int, float]) -> float:
    total = math.log(sum(math.exp(logit) for logit in logits))
    return -sum(share * (logits[j] - total) for j, share in target.items())


def kernel_mean(a: Rows, b: Rows, scale: float, *, without_self: bool = False) -> float:
    values = [
        math.exp(-(math.dist(p, q) ** 2) / scale)
        for i, p in enumerate(a)
        for j, q in enumerate(b)
        if not (without_self and i == j)
    ]
    return sum(values) / len(values)


@pytest.mark.parametrize("unbiased", [False, True])
def test_mk_mmd_matches_the_formula_written_as_plain_loops(unbiased: bool) -> None:
    x, y = unit(5, 3, 1), unit(7, 3, 2)
    a, b = x.tolist(), y.tolist()
    expected = sum(
        kernel_mean(a, a, s, without_self=unbiased)
        + kernel_mean(b, b, s, without_self=unbiased)
        - 2 * kernel_mean(a, b, s)
        for s in (1e-6, 0.3, 5.0)
    )
    assert float(mk_mmd(x, y, [1e-6, 0.3, 5.0], unbiased=unbiased)) == pytest.approx(expected, rel=1e-9)


def test_mk_mmd_without_bandwidths_takes_five_about_the_median_squared_distance() -> None:
    x, y = unit(5, 3, 1), unit(7, 3, 2)
    rows = [*x.tolist(), *y.tolist()]
    squared = sorted(math.dist(rows[i], rows[j]) ** 2 for i in range(12) for j in range(i))
    median = squared[(len(squared) - 1) // 2]
    expected = mk_mmd(x, y, [factor * median for factor in (0.25, 0.5, 1, 2, 4)])
    assert float(mk_mmd(x, y)) == pytest.approx(float(expected), rel=1e-5)


def test_clip_matches_the_formula_written_as_plain_loops() -> None:
    left, right = unit(5, 3, 1), unit(5, 3, 2)
    a, b = left.tolist(), right.tolist()
    there = [cross_entropy([dot(p, q) / 0.1 for q in b], {i: 1}) for i, p in enumerate(a)]
    back = [cross_entropy([dot(p, q) / 0.1 for p in a], {j: 1}) for j, q in enumerate(b)]
    assert float(clip(left, right, temperature=0.1)) == pytest.approx((sum(there) + sum(back)) / 10, rel=1e-9)


def test_clip_with_soft_targets_matches_the_formula_written_as_plain_loops() -> None:
    left, right = unit(3, 3, 1), unit(4, 3, 2)
    targets = torch.tensor([[1.0, 0, 1, 0], [0, 3, 0, 0], [0, 0, 0, 0]])  # row 2 and column 3 have no partner
    a, b = left.tolist(), right.tolist()
    there = [
        cross_entropy([dot(a[0], q) / 0.1 for q in b], {0: 0.5, 2: 0.5}),
        cross_entropy([dot(a[1], q) / 0.1 for q in b], {1: 1}),
    ]
    back = [cross_entropy([dot(p, b[j]) / 0.1 for p in a], {i: 1}) for j, i in ((0, 0), (1, 1), (2, 0))]
    expected = (sum(there) / 2 + sum(back) / 3) / 2
    assert float(clip(left, right, temperature=0.1, targets=targets)) == pytest.approx(expected, rel=1e-6)


def test_clip_takes_pairs_that_share_an_item_for_partners() -> None:
    left_ids, right_ids = torch.tensor([4, 4, 9]), torch.tensor([0, 1, 2])
    targets = shared_partners(left_ids, right_ids)
    assert targets.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert torch.equal(shared_partners(right_ids, left_ids), targets)  # two images of one caption likewise
    left = F.one_hot(torch.tensor([0, 0, 1]), 3).double()
    # with the identity, two captions of one image fight over it; told that both are right, they need not
    alone = clip(left, left, temperature=0.01)
    shared = clip(left, left, temperature=0.01, targets=targets)
    assert float(alone) == pytest.approx(2 / 3 * math.log(2), rel=1e-6)
    assert float(shared) == pytest.approx(2 / 3 * math.log(2), rel=1e-6)
    wrong = left[[1, 0, 2]]
    torch.testing.assert_close(clip(left, wrong, temperature=0.01, targets=targets), shared)


def test_clip_of_one_pair_is_zero_and_of_right_partners_near_zero() -> None:
    assert float(clip(unit(1, 3, 1), unit(1, 3, 2))) == 0
    assert float(clip(torch.eye(4), torch.eye(4), temperature=0.01)) < 1e-6


def test_self_supervised_matches_the_formula_written_as_plain_loops() -> None:
    first, second = unit(4, 3, 1), unit(4, 3, 2)
    views = [*first.tolist(), *second.tolist()]
    expected = 0.0
    for i, row in enumerate(views):
        others = [j for j in range(8) if j != i]
        partner = others.index((i + 4) % 8)
        expected += cross_entropy([dot(row, views[j]) / 0.2 for j in others], {partner: 1}) / 8
    assert float(self_supervised(first, second, temperature=0.2)) == pytest.approx(expected, rel=1e-9)


def test_neighbourhood_matches_the_formula_written_as_plain_loops() -> None:
    features, embeddings = unit(5, 4, 1) * 3, unit(5, 3, 2)
    f, u = (features / 3).tolist(), embeddings.tolist()
    expected = 0.0
    for i in range(5):
        others = [j for j in range(5) if j != i]
        weights = [math.exp(dot(f[i], f[j]) / 0.1) for j in others]
        shares = {place: weight / sum(weights) for place, weight in enumerate(weights)}
        expected += cross_entropy([dot(u[i], u[j]) / 0.3 for j in others], shares) / 5
    found = neighbourhood(features, embeddings, embedding_temperature=0.3)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_neighbourhood_is_least_where_the_neighbours_agree() -> None:
    features = unit(8, 3, 1)
    agreeing = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(neighbourhood(features, agreeing), agreeing)
    assert float(gradient.abs().max()) < 1e-9
    assert neighbourhood(features, unit(8, 3, 2)) > neighbourhood(features, features)


def test_teacher_matches_the_formula_written_as_plain_loops() -> None:
    left, right, c, d = unit(3, 4, 1), unit(5, 4, 2), unit(3, 2, 3), unit(5, 2, 4)
    plan = [[math.exp(dot(p, q) / 0.2) for q in d.tolist()] for p in c.tolist()]
    for _ in range(15):
        plan = [[value / sum(row) / 3 for value in row] for row in plan]
        sums = [sum(row[j] for row in plan) for j in range(5)]
        plan = [[value / sums[j] / 5 for j, value in enumerate(row)] for row in plan]
    logits = [[dot(p, q) / 0.07 for q in right.tolist()] for p in left.tolist()]
    there = sum(cross_entropy(logits[i], {j: plan[i][j] / sum(plan[i]) for j in range(5)}) / 3 for i in range(3))
    back = sum(
        cross_entropy(
            [logits[i][j] for i in range(3)],
            {i: plan[i][j] / sum(plan[k][j] for k in range(3)) for i in range(3)},
        )
        / 5
        for j in range(5)
    )
    found = teacher(left, right, c, d, sharpness=0.2)
    assert float(found) == pytest.approx((there + back) / 2, rel=1e-9)


def test_sinkhorn_gives_equal_masses() -> None:
    plan = sinkhorn(unit(4, 3, 1) @ unit(6, 3, 2).T / 0.2, 200).exp()
    torch.testing.assert_close(plan.sum(0), torch.full((6,), 1 / 6, dtype=plan.dtype))
    torch.testing.assert_close(plan.sum(1), torch.full((4,), 1 / 4, dtype=plan.dtype))


def test_s_clip_labels_rows_by_the_pair_items_they_lie_at() -> None:
    paired_features = torch.eye(3, dtype=torch.float64)
    features = paired_features[[2, 0, 1]]
    partners = unit(3, 3, 2)
    embeddings = unit(3, 3, 1)
    found = s_clip(embeddings, partners, features, paired_features, temperature=0.1, regularisation=0.01)
    rows = [[dot(p, q) / 0.1 for q in partners.tolist()] for p in embeddings.tolist()]
    expected = sum(cross_entropy(row, {label: 1}) for row, label in zip(rows, (2, 0, 1), strict=True)) / 3
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_s_clip_matches_the_formula_written_as_plain_loops() -> None:
    embeddings, partners, features, paired = unit(5, 3, 1), unit(3, 3, 2), 4 * unit(5, 4, 3), unit(3, 4, 4)
    cosines = [[dot(p, q) / 4 for q in paired.tolist()] for p in features.tolist()]
    plan = [[math.exp((cosine - 1) / 0.02) for cosine in row] for row in cosines]
    for _ in range(50):  # the pairs' masses first, those of the rows last
        sums = [sum(row[j] for row in plan) for j in range(3)]
        plan = [[value / sums[j] / 3 for j, value in enumerate(row)] for row in plan]
        plan = [[value / sum(row) / 5 for value in row] for row in plan]
    rows = [[dot(p, q) / 0.1 for q in partners.tolist()] for p in embeddings.tolist()]
    expected = sum(
        cross_entropy(row, {j: 5 * mass for j, mass in enumerate(masses)}) / 5
        for row, masses in zip(rows, plan, strict=True)
    )
    found = s_clip(embeddings, partners, features, paired, temperature=0.1, regularisation=0.02)
    assert float(found) == pytest.approx(expected, rel=1e-9)


PAIR_OF_SETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mk_mmd": lambda x, y: mk_mmd(x, y, [0.2, 2.0]),
    "mk_mmd unbiased": lambda x, y: mk_mmd(x, y, [0.2, 2.0], unbiased=True),
    "clip": lambda x, y: clip(x, y),
    "clip targets": lambda x, y: clip(x, y, targets=shared_partners(torch.tensor([0, 0, 1, 2]), torch.arange(4))),
    "self_supervised": lambda x, y: self_supervised(x, y),
    "neighbourhood": lambda x, y: neighbourhood(unit(4, 5, 8), x) + neighbourhood(unit(4, 5, 9), y),
    "teacher": lambda x, y: teacher(x, y, unit(4, 2, 8), unit(4, 2, 9)),
    "s_clip": lambda x, y: s_clip(x, y, unit(4, 2, 8), unit(4, 2, 9)),
}


@pytest.mark.parametrize("name", PAIR_OF_SETS)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    x, y = unit(4, 3, 1).requires_grad_(), unit(4, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(PAIR_OF_SETS[name], (x, y))


def test_gradient_reaches_a_learnable_temperature() -> None:
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: clip(unit(4, 3, 1), unit(4, 3, 2), temperature=t), (temperature,))


@pytest.mark.parametrize("name", PAIR_OF_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
def test_every_term_is_finite_on_collapsed_and_on_spread_sets(name: str, dtype: torch.dtype, noise: float) -> None:
    centre = unit(1, 3, 0)
    x, y = (
        F.normalize(sign * centre + noise * unit(4, 3, seed), dim=1).to(dtype).requires_grad_()
        for sign, seed in ((1, 1), (-1, 2))
    )
    value = PAIR_OF_SETS[name](x, y)
    value.backward()
    assert bool(torch.isfinite(value))
    for rows in (x, y):
        assert rows.grad is not None
        assert bool(torch.isfinite(rows.grad).all())


@given(seed=st.integers(0, 2**16), name=st.sampled_from(["mk_mmd", "clip", "self_supervised"]))
@settings(max_examples=30, deadline=None)
def test_two_sets_are_alike_either_way_round_and_under_rotation(seed: int, name: str) -> None:
    x, y, loss = unit(4, 3, seed), unit(4, 3, seed + 1), PAIR_OF_SETS[name]
    rotation = torch.linalg.qr(unit(3, 3, seed))[0]
    order = torch.randperm(4)
    for other in (loss(y, x), loss(x @ rotation, y @ rotation), loss(x[order], y[order])):
        torch.testing.assert_close(other, loss(x, y), rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 2**16), n=st.integers(1, 9), m=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_mk_mmd_is_non_negative_blind_to_row_order_and_zero_for_equal_sets(seed: int, n: int, m: int) -> None:
    x, y = unit(n, 3, seed), unit(m, 3, seed + 1)
    value = mk_mmd(x, y)
    assert float(value) > -1e-9
    torch.testing.assert_close(mk_mmd(x[torch.randperm(n)], y[torch.randperm(m)], [0.2]), mk_mmd(x, y, [0.2]))
    assert abs(float(mk_mmd(x, x[torch.randperm(n)], [0.2]))) < 1e-12


def test_unbiased_mk_mmd_of_one_distribution_is_zero_on_average() -> None:
    values = torch.stack(
        [mk_mmd(unit(20, 3, seed), unit(20, 3, 500 + seed), [0.5], unbiased=True) for seed in range(100)]
    )
    assert abs(float(values.mean())) < 3 * float(values.std()) / 10
    assert float(mk_mmd(unit(20, 3, 1), unit(20, 3, 2), [0.5])) > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: clip(unit(3, 2, 1), unit(4, 2, 2)), "as many rows"),
        (lambda: clip(unit(3, 2, 1), unit(3, 2, 2), temperature=0), "temperature above 0; got 0"),
        (lambda: clip(unit(3, 2, 1), unit(3, 2, 2), targets=torch.zeros(3, 3)), "not all 0"),
        (lambda: clip(unit(3, 2, 1), unit(3, 2, 2), targets=torch.ones(2, 3)), r"targets must be \(3, 3\)"),
        (lambda: self_supervised(unit(3, 2, 1), unit(4, 2, 2)), "3 and 4 rows"),
        (lambda: neighbourhood(unit(3, 2, 1), unit(4, 2, 2)), "3 and 4 rows"),
        (lambda: neighbourhood(unit(3, 2, 1), unit(3, 2, 2), temperature=-1), "temperatures -1"),
        (lambda: teacher(unit(3, 2, 1), unit(4, 2, 2), unit(3, 2, 1), unit(3, 2, 2)), "3, 3 coordinates"),
        (lambda: mk_mmd(unit(1, 2, 1), unit(4, 2, 2), unbiased=True), "two rows"),
        (lambda: mk_mmd(unit(3, 2, 1), unit(4, 2, 2), [0.0]), "positive"),
        (lambda: s_clip(unit(3, 2, 1), unit(4, 2, 2), unit(3, 5, 1), unit(3, 5, 2)), "3, 4 rows, 3, 3 features"),
        (lambda: clip(torch.empty(0, 2), torch.empty(0, 2)), "non-empty"),
        (lambda: self_supervised(torch.full((2, 2), torch.inf), torch.ones(2, 2)), "NaN or inf"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
