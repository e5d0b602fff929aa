"""Both directions from one walk over the matrix: the sums and gradients of one direction at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from setclip_cli.losses import mutual
from setclip_cli.losses.kernels import log_kernel_sum
from setclip_cli.losses.mutual import mutual_log_kernel_sums, own_log_kernel_sum


def unit(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, dtype=torch.float64, generator=draw) + 0.2, dim=1).to(dtype)


def upstream(sums: Tensor, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(sums.shape, dtype=torch.float64, generator=draw).to(sums.dtype)


def pulled(outputs: list[Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(sum((out * upstream(out, i)).sum() for i, out in enumerate(outputs)), inputs)


@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    bandwidths=st.lists(st.floats(0.1, 20), min_size=1, max_size=3),
    block=st.sampled_from([1, 7, 16, 512]),
)
@settings(max_examples=40, deadline=None)
def test_both_directions_are_those_of_two_walks(n: int, m: int, bandwidths: list[float], block: int) -> None:
    x, y = unit(n, 5).requires_grad_(), unit(m, 5, seed=1).requires_grad_()
    found = mutual_log_kernel_sums(x, y, bandwidths, block_size=block)
    expected = (log_kernel_sum(x, y, bandwidths), log_kernel_sum(y, x, bandwidths))
    assert "KernelSums" in type(found[0].grad_fn).__name__, "not the walk under test"
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for a, b in zip(pulled([*found], [x, y]), pulled([*expected], [x, y]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@given(
    n=st.integers(2, 40),
    bandwidths=st.lists(st.floats(0.1, 20), min_size=1, max_size=3),
    exclude_self=st.booleans(),
    block=st.sampled_from([1, 7, 16, 512]),
)
@settings(max_examples=40, deadline=None)
def test_half_the_matrix_of_a_set_with_itself_is_enough(
    n: int, bandwidths: list[float], exclude_self: bool, block: int
) -> None:
    x = unit(n, 5).requires_grad_()
    found = own_log_kernel_sum(x, bandwidths, exclude_self=exclude_self, block_size=block)
    expected = log_kernel_sum(x, x, bandwidths, exclude_self=exclude_self)
    assert "KernelSums" in type(found.grad_fn).__name__, "not the walk under test"
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pulled([found], [x])[0], pulled([expected], [x])[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("block", [2, 512])
def test_gradients_are_those_of_finite_differences(block: int) -> None:
    x, y = unit(6, 3).requires_grad_(), unit(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mutual_log_kernel_sums(a, b, [0.1, 1.5], block_size=block), (x, y))
    assert torch.autograd.gradcheck(lambda a: own_log_kernel_sum(a, [0.3], exclude_self=True, block_size=block), (x,))


@pytest.mark.parametrize("sizes", [(300, 200), (257, 513)])
def test_value_and_gradient_do_not_depend_on_the_tiling(sizes: tuple[int, int]) -> None:
    results = []
    for block in (64, 100, 512):
        x, y = (unit(n, 16, seed, torch.float32).requires_grad_() for seed, n in enumerate(sizes))
        sums = [*mutual_log_kernel_sums(x, y, [0.2], block_size=block), own_log_kernel_sum(x, [0.2], block_size=block)]
        results.append([*(part.detach() for part in sums), *pulled(sums, [x, y])])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("share_of_the_range", [0.5, 0.99, 1.01, 4.0])
def test_float32_is_as_accurate_up_to_the_end_of_its_range_and_beyond_it_takes_the_other_walk(
    share_of_the_range: float,
) -> None:
    """Opposite points: the widest that rows of one length can lie apart."""
    x = torch.cat([unit(30, 4), -unit(30, 4)])
    spread = float((x - x.mean(0)).square().sum(1).max())
    scale = 4 * spread / (share_of_the_range * mutual._RANGE * math.log(torch.finfo(torch.float32).max))
    rows = x.float().requires_grad_()
    found = own_log_kernel_sum(rows, [scale], exclude_self=True)
    assert ("_KernelSums" in type(found.grad_fn).__name__) == (share_of_the_range < 1)
    exact = x.requires_grad_()
    expected = log_kernel_sum(exact, exact, [scale], exclude_self=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    (gradient,), (exact_gradient,) = pulled([found], [rows]), pulled([expected], [exact])
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-3, atol=1e-3 * float(exact_gradient.max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x, y = unit(20, 8, 0, dtype).requires_grad_(), unit(30, 8, 1, dtype)
    over_y, over_x = mutual_log_kernel_sums(x, y, [0.2])
    assert over_y.dtype == over_x.dtype == torch.float32
    torch.testing.assert_close(over_y, log_kernel_sum(x.float(), y.float(), [0.2]))
    assert torch.autograd.grad(over_y.sum(), x)[0].dtype == dtype
