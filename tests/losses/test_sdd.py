"""The stable semantic density distribution loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from setclip_cli.losses.sdd import log_density_ratios, sdd


def unit(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1).to(
        dtype
    )


def ratios_by_loops(
    own: Tensor, other: Tensor, own_bank: Tensor, other_bank: Tensor, scale: float, *, leave_one_out: bool
) -> list[float]:
    """Densities first, their ratio after: the other way round from the implementation."""

    def density(point: list[float], rows: list[list[float]]) -> float:
        return sum(math.exp(-(math.dist(point, row) ** 2) / scale) for row in rows) / len(rows)

    points = own.tolist()
    ratios = []
    for index, point in enumerate(points):
        others = points[:index] + points[index + leave_one_out :]
        of_own, of_other = (
            density(point, others + own_bank.tolist()),
            density(point, [*other.tolist(), *other_bank.tolist()]),
        )
        ratios.append(math.log(of_own / of_other))
    return ratios


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize(("x_banked", "y_banked"), [(0, 0), (4, 0), (0, 3), (4, 2)])
def test_every_density_ratio_is_that_of_plain_loops(leave_one_out: bool, x_banked: int, y_banked: int) -> None:
    x, y, x_bank, y_bank = unit(6, 3, 1), unit(9, 3, 2), unit(x_banked, 3, 3), unit(y_banked, 3, 4)
    expected = (
        ratios_by_loops(x, y, x_bank, y_bank, 0.2, leave_one_out=leave_one_out),
        ratios_by_loops(y, x, y_bank, x_bank, 0.2, leave_one_out=leave_one_out),
    )
    found = log_density_ratios(x, y, [0.2], leave_one_out=leave_one_out, x_bank=x_bank, y_bank=y_bank)
    for ratios, wanted in zip(found, expected, strict=True):
        assert ratios[:, 0].tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    value = sdd(x, y, [0.2], leave_one_out=leave_one_out, x_bank=x_bank, y_bank=y_bank)
    assert float(value) == pytest.approx(sum(sum(wanted) / len(wanted) for wanted in expected), rel=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"leave_one_out": True},
        {"bandwidths": [0.05, 0.8]},
        {"x_bank": unit(4, 3, 8), "y_bank": unit(2, 3, 9), "leave_one_out": True},
    ],
)
def test_gradient_is_that_of_finite_differences(options: dict[str, object]) -> None:
    x, y = unit(5, 3, 1).requires_grad_(), unit(7, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: sdd(a, b, **options), (x, y))  # type: ignore[arg-type]


@given(seed=st.integers(0, 2**16), n=st.integers(1, 9), m=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_is_symmetric_blind_to_row_order_and_to_rotation(seed: int, n: int, m: int) -> None:
    x, y = unit(n, 4, seed), unit(m, 4, seed + 1)
    value = sdd(x, y)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    shuffled = sdd(x[torch.randperm(n)], y[torch.randperm(m)])
    for other in (sdd(y, x), shuffled, sdd(x @ rotation, y @ rotation)):
        torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**16), n=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_equal_sets_give_zero(seed: int, n: int) -> None:
    x = unit(n, 4, seed)
    assert abs(float(sdd(x, x[torch.randperm(n)]))) < 1e-9


def test_repeating_every_row_changes_nothing() -> None:
    x, y = unit(6, 4, 1), unit(5, 4, 2)
    torch.testing.assert_close(sdd(x.repeat(3, 1), y.repeat(2, 1)), sdd(x, y))


def test_no_gradient_flows_into_a_bank() -> None:
    x, y, bank = unit(4, 3, 1).requires_grad_(), unit(5, 3, 2), unit(6, 3, 3).requires_grad_()
    sdd(x, y, x_bank=bank, y_bank=bank).backward()
    assert bank.grad is None


def test_several_bandwidths_are_averaged() -> None:
    x, y = unit(6, 4, 1), unit(5, 4, 2)
    torch.testing.assert_close(sdd(x, y, [0.1, 0.7]), (sdd(x, y, [0.1]) + sdd(x, y, [0.7])) / 2)


def _set(n: int, cosine: float, centre: Tensor, seed: int) -> Tensor:
    """n unit rows whose mean cosine with each other is about ``cosine``."""
    noise = unit(n, 16, seed)
    noise = F.normalize(noise - (noise @ centre)[:, None] * centre, dim=1)
    return F.normalize(math.sqrt(cosine) * centre + math.sqrt(1 - cosine) * noise, dim=1)


@pytest.mark.parametrize(
    ("n", "dtype", "cosine"),
    [
        (4096, torch.float32, 0.9999),
        *[
            (n, dtype, cosine)
            for n in (2, 64)
            for dtype in (torch.float32, torch.bfloat16, torch.float16)
            for cosine in (0.0, 0.9, 0.9999)
        ],
    ],
)
def test_value_and_gradient_are_finite_from_spread_to_collapsed_and_from_together_to_opposite(
    n: int, dtype: torch.dtype, cosine: float
) -> None:
    centre = unit(1, 16, 0)[0]
    for other in (centre, -centre):
        x, y = (_set(n, cosine, middle, seed).to(dtype) for middle, seed in ((centre, 1), (other, 2)))
        x.requires_grad_()
        y.requires_grad_()
        value = sdd(x, y)
        value.backward()
        assert bool(torch.isfinite(value))
        assert x.grad is not None
        assert y.grad is not None
        assert bool(torch.isfinite(x.grad).all())
        assert bool(torch.isfinite(y.grad).all())


def test_a_set_collapsed_to_one_point_is_pulled_apart_or_left_alone() -> None:
    x = unit(1, 4, 1).repeat(8, 1).requires_grad_()
    y = unit(6, 4, 2)
    for leave_one_out in (False, True):
        value = sdd(x, y, leave_one_out=leave_one_out)
        (gradient,) = torch.autograd.grad(value, x)
        assert bool(torch.isfinite(value))
        assert bool(torch.isfinite(gradient).all())
        # one step along the gradient brings the sets nearer
        nearer = F.normalize(x.detach() - 0.05 * gradient, dim=1)
        assert sdd(nearer, y, leave_one_out=leave_one_out) < value


def test_scale_per_point_does_not_depend_on_the_batch_with_leave_one_out() -> None:
    """Two fixed distributions, drawn 50 times at each size: means agree within their standard errors."""
    shift = torch.zeros(6, dtype=torch.float64)
    shift[0] = 0.8
    means, errors, biased = [], [], []
    for n in (64, 256, 1024):
        draws, with_self = [], []
        for seed in range(50):
            generator = torch.Generator().manual_seed(1000 * n + seed)
            x, y = (torch.randn(n, 6, dtype=torch.float64, generator=generator) for _ in range(2))
            x, y = F.normalize(x + shift, dim=1).float(), F.normalize(y - shift, dim=1).float()
            draws.append(sdd(x, y, [0.5], leave_one_out=True))
            with_self.append(sdd(x, y, [0.5]))
        values = torch.stack(draws)
        means.append(float(values.mean()))
        errors.append(float(values.std()) / math.sqrt(50))
        biased.append(float(torch.stack(with_self).mean()))
    for i in range(3):
        for j in range(i):
            assert abs(means[i] - means[j]) < 3 * math.hypot(errors[i], errors[j])
    # the point itself raises its own density: a bias that falls with n
    assert biased[0] - means[0] > biased[1] - means[1] > biased[2] - means[2] > 0


def test_a_bandwidth_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        sdd(unit(4, 3, 1), unit(4, 3, 2), [-0.2])


def test_leave_one_out_needs_two_rows_on_each_side() -> None:
    with pytest.raises(ValueError, match="two rows"):
        sdd(unit(1, 3, 1), unit(4, 3, 2), leave_one_out=True)
