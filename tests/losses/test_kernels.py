"""The kernel sum: right, finite, and the same in any tiling."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from setclip_cli.losses.kernels import log_kernel_sum, median_bandwidth


def unit(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1).to(
        dtype
    )


def by_loops(x: Tensor, y: Tensor, scale: float, *, exclude_self: bool = False) -> list[float]:
    """The definition, one pair at a time, with the largest exponent taken out."""
    sums = []
    for i, a in enumerate(x.tolist()):
        exponents = [
            -sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / scale
            for j, b in enumerate(y.tolist())
            if not (exclude_self and i == j)
        ]
        top = max(exponents)
        sums.append(top + math.log(sum(math.exp(exponent - top) for exponent in exponents)))
    return sums


@pytest.mark.parametrize("scale", [1e-6, 0.01, 0.2, 50.0])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_matches_the_definition_written_as_loops(scale: float, exclude_self: bool) -> None:
    x, other = unit(5, 3), unit(4, 3, seed=1)
    y = torch.cat([x, other])
    found = log_kernel_sum(x, y, [scale], exclude_self=exclude_self, block_size=4)
    expected = torch.tensor(by_loops(x, y, scale, exclude_self=exclude_self), dtype=torch.float64)
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block_size", [2, 5, 1024])
def test_gradient_is_that_of_finite_differences(block_size: int) -> None:
    x, y = unit(6, 3).requires_grad_(), unit(7, 3, seed=1).requires_grad_()
    scales = [0.1, 1.5]
    assert torch.autograd.gradcheck(lambda a, b: log_kernel_sum(a, b, scales, block_size=block_size), (x, y))
    assert torch.autograd.gradcheck(
        lambda a: log_kernel_sum(a, a, scales, exclude_self=True, block_size=block_size), (x,)
    )


@pytest.mark.parametrize("size", [(300, 200), (257, 513), (2, 70)])
def test_value_and_gradient_do_not_depend_on_the_tiling(size: tuple[int, int]) -> None:
    results = []
    for block_size in (64, 100, 1024):
        x = unit(size[0], 16, dtype=torch.float32).requires_grad_()
        y = unit(size[1], 16, seed=1, dtype=torch.float32).requires_grad_()
        value = log_kernel_sum(x, y, [0.2, 1.0], block_size=block_size)
        value.square().mean().backward()
        results.append((value.detach(), x.grad, y.grad))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_dense_rows_give_the_gradient_that_autograd_gives() -> None:
    x, y = unit(40, 8).requires_grad_(), unit(30, 8, seed=1).requires_grad_()
    upstream = unit(40, 1, seed=3)
    dense = torch.logsumexp(-(x[:, None] - y).square().sum(2) / 0.3, dim=1, keepdim=True)
    expected = torch.autograd.grad(dense, (x, y), upstream)
    found = torch.autograd.grad(log_kernel_sum(x, y, [0.3]), (x, y), upstream)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@given(
    seed=st.integers(0, 2**16),
    scale=st.floats(1e-6, 1e4),
    spread=st.floats(0, 2),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
@settings(max_examples=60, deadline=None)
def test_value_and_gradient_are_finite_everywhere(seed: int, scale: float, spread: float, dtype: torch.dtype) -> None:
    centre = unit(1, 8, seed)
    x = F.normalize(centre + spread * unit(9, 8, seed + 1), dim=1).to(dtype).requires_grad_()
    y = F.normalize(-centre + spread * unit(5, 8, seed + 2), dim=1).to(dtype).requires_grad_()
    value = log_kernel_sum(x, y, [scale])
    value.sum().backward()
    assert value.dtype == torch.float32
    assert bool(torch.isfinite(value).all())
    assert x.grad is not None
    assert x.grad.dtype == dtype
    if dtype != torch.float16 or scale > 1e-3:  # a steeper slope than 65,504 is no float16
        assert bool(torch.isfinite(x.grad).all())


def test_autocast_does_not_lower_the_precision() -> None:
    x, y = unit(50, 16, dtype=torch.float32), unit(40, 16, seed=1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = log_kernel_sum(x, y, [0.05])
    torch.testing.assert_close(inside, log_kernel_sum(x, y, [0.05]), rtol=0, atol=0)


def test_small_bandwidths_far_from_the_origin_stay_exact() -> None:
    x = unit(20, 8, dtype=torch.float32) * 1e-3 + 1
    found = log_kernel_sum(x, x, [1e-5])
    expected = log_kernel_sum(x.double(), x.double(), [1e-5])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)


def test_a_bandwidth_far_below_the_spread_takes_exact_distances() -> None:
    """Two tight groups, opposite each other: inner products in float32 would blur the distances within a group."""
    centre = unit(1, 8)
    x = torch.cat([centre + 3e-3 * unit(10, 8, seed=1), -centre + 3e-3 * unit(10, 8, seed=2)]).float().requires_grad_()
    exact = x.detach().double().requires_grad_()
    found, expected = log_kernel_sum(x, x, [1e-5]), log_kernel_sum(exact, exact, [1e-5])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)
    (gradient,), (exact_gradient,) = torch.autograd.grad(found.sum(), x), torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=0, atol=1e-3 * float(exact_gradient.abs().max()))


def test_median_bandwidth_is_the_median_squared_distance() -> None:
    x, y = unit(7, 3), unit(6, 3, seed=1)
    rows = [*x.tolist(), *y.tolist()]
    squared = sorted(
        sum((p - q) ** 2 for p, q in zip(rows[i], rows[j], strict=True)) for i in range(13) for j in range(i)
    )
    assert median_bandwidth(x, y) == pytest.approx(squared[(len(squared) - 1) // 2], rel=1e-5)
    assert median_bandwidth(x[:1], x[:1]) > 0
    # of larger sets, some rows of each, evenly spaced
    assert median_bandwidth(x, y, rows=3) == pytest.approx(median_bandwidth(x[::2], y[::2]))


@pytest.mark.parametrize(
    ("x", "y", "bandwidths", "words"),
    [
        (torch.zeros(3, 4), torch.zeros(3, 5), [1.0], r"one width.*\(3, 4\).*\(3, 5\)"),
        (torch.zeros(0, 4), torch.zeros(3, 4), [1.0], r"non-empty.*\(0, 4\)"),
        (torch.zeros(3, 4), torch.full((3, 4), torch.nan), [1.0], "y holds NaN or inf, first in row 0"),
        (torch.zeros(3, 4), torch.zeros(3, 4), [0.2, -1.0], "positive.*-1.0"),
        (torch.zeros(3, 4), torch.zeros(3, 4), [0.0], "positive"),
        (torch.zeros(3, 4), torch.zeros(3, 4), [], "at least one"),
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4), [1.0], "floating-point"),
    ],
)
def test_bad_input_is_named(x: Tensor, y: Tensor, bandwidths: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        log_kernel_sum(x, y, bandwidths)


def test_leaving_itself_out_needs_another_row() -> None:
    with pytest.raises(ValueError, match="exclude_self"):
        log_kernel_sum(torch.zeros(1, 4), torch.zeros(1, 4), [1.0], exclude_self=True)
