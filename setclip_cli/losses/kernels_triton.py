"""The kernel sum and its gradient as two Triton kernels, for CUDA GPUs.

The tiles are those of ``kernels.py``, made, reduced and dropped inside one kernel each: the forward is an online
log-sum-exp over blocks of y (Milakov & Gimelshein 2018, arXiv:1805.02867), the backward makes the blocks again (Dao et
al. 2022, arXiv:2205.14135). Every sum is float32 and in a fixed order, so a result repeats bit for bit. So far the
kernels have been compiled for GPUs, and have run in Triton's interpreter on a CPU; they have never run on a GPU. Their
annotations have to be names that the compiler knows: it reads them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import tensor

# Sizes with which the compiler keeps all values of a program in registers, on GPUs of capability 8.0 to 10.0.
_FORWARD = {"row_block": 64, "column_block": 64, "depth_block": 32}
_PULL = {"row_block": 64, "column_block": 32, "depth_block": 16, "width": 128}
_WARPS = 8
# "width" is the columns of a gradient in one program; for wider rows, each such piece makes the tiles again


class LogKernelSum(torch.autograd.Function):
    """``kernels.log_kernel_sum`` of float32 rows, for bandwidths that their inner products can resolve."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
        x, y, rates = x.contiguous(), y.contiguous(), 2 / x.new_tensor(scales)
        biases = -0.5 * rates[:, None] * y.square().sum(1)
        sums = x.new_empty(len(rates), len(x))
        grid = (triton.cdiv(len(x), _FORWARD["row_block"]), len(rates))
        options = {"exclude_self": exclude_self, "num_warps": _WARPS, **_FORWARD}
        _forward[grid](x, y, rates, biases, sums, len(x), len(y), x.shape[1], **options)
        ctx.save_for_backward(x, y, rates, biases, sums)
        ctx.exclude_self = exclude_self
        return (sums - 0.5 * rates[:, None] * x.square().sum(1)).T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y, rates, biases, sums = ctx.saved_tensors
        # W_ij = Σ_b (-upstream_ib rate_b) P_ijb, P the softmax over j: each side is pulled along W times a difference
        of_x = ((-upstream.T * rates[:, None]).contiguous(), -sums)
        of_y = (torch.ones_like(biases), biases)
        grad_x = _pulled(x, y, rates, of_x, of_y, ctx.exclude_self) if ctx.needs_input_grad[0] else None
        grad_y = _pulled(y, x, rates, of_y, of_x, ctx.exclude_self) if ctx.needs_input_grad[1] else None
        return grad_x, grad_y, None, None


def _pulled(
    own: Tensor,
    other: Tensor,
    rates: Tensor,
    of_own: tuple[Tensor, Tensor],
    of_other: tuple[Tensor, Tensor],
    exclude_self: bool,
) -> Tensor:
    """(n, d) Σ_j W_ij (own_i - other_j), W_ij = Σ_b f_bi g_bj exp(rates_b own_i·other_j + s_bi + t_bj).

    ``of_own`` holds the factors f and exponents s, (k, n) each, ``of_other`` g and t, (k, m).
    """
    result = torch.empty_like(own)
    (n, d), m = own.shape, len(other)
    grid = (triton.cdiv(n, _PULL["row_block"]), triton.cdiv(d, _PULL["width"]))
    options = {"exclude_self": exclude_self, "num_warps": _WARPS, **_PULL}
    _pull[grid](own, other, rates, *of_own, *of_other, result, n, m, d, len(rates), **options)
    return result


@triton.jit
def _products(
    a: tensor, b: tensor, rows: tensor, columns: tensor, n: tensor, m: tensor, d: tensor,
    row_block: tl.constexpr, column_block: tl.constexpr, depth_block: tl.constexpr,
) -> tensor:  # fmt: skip
    """Inner products of a block of rows of a with a block of rows of b, a piece of their width at a time."""
    found = tl.zeros((row_block, column_block), tl.float32)
    for start in range(0, d, depth_block):
        depth = start + tl.arange(0, depth_block)
        left = tl.load(
            a + rows.to(tl.int64)[:, None] * d + depth[None, :],
            mask=(rows < n)[:, None] & (depth < d)[None, :],
            other=0.0,
        )
        right = tl.load(
            b + columns.to(tl.int64)[None, :] * d + depth[:, None],
            mask=(columns < m)[None, :] & (depth < d)[:, None],
            other=0.0,
        )
        found = tl.dot(left, right, found, input_precision="ieee")  # tf32 would miss 1e-4
    return found


@triton.jit
def _forward(
    x: tensor, y: tensor, rates: tensor, biases: tensor, sums: tensor, n: tensor, m: tensor, d: tensor,
    exclude_self: tl.constexpr, row_block: tl.constexpr, column_block: tl.constexpr, depth_block: tl.constexpr,
) -> None:  # fmt: skip
    rows = tl.program_id(0) * row_block + tl.arange(0, row_block)
    which = tl.program_id(1)
    rate = tl.load(rates + which)
    top = tl.full((row_block,), float("-inf"), tl.float32)
    total = tl.zeros((row_block,), tl.float32)
    for start in range(0, m, column_block):
        columns = start + tl.arange(0, column_block)
        bias = tl.load(biases + which * m + columns, mask=columns < m, other=float("-inf"))
        logits = _products(x, y, rows, columns, n, m, d, row_block, column_block, depth_block) * rate + bias[None, :]
        if exclude_self:
            logits = tl.where(rows[:, None] == columns[None, :], float("-inf"), logits)
        highest = tl.maximum(top, tl.max(logits, 1))
        shift = tl.where(highest == float("-inf"), 0.0, highest)  # a row of -inf sums to -inf, not NaN
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)
        top = highest
    tl.store(sums + which * n + rows, top + tl.log(total), mask=rows < n)


@triton.jit
def _pull(
    own: tensor, other: tensor, rates: tensor,
    own_factors: tensor, own_exponents: tensor, other_factors: tensor, other_exponents: tensor,
    result: tensor, n: tensor, m: tensor, d: tensor, k: tensor,
    exclude_self: tl.constexpr, width: tl.constexpr,
    row_block: tl.constexpr, column_block: tl.constexpr, depth_block: tl.constexpr,
) -> None:  # fmt: skip
    rows = tl.program_id(0) * row_block + tl.arange(0, row_block)
    wide = tl.program_id(1) * width + tl.arange(0, width)
    mass = tl.zeros((row_block,), tl.float32)
    pulled_to = tl.zeros((row_block, width), tl.float32)
    for start in range(0, m, column_block):
        columns = start + tl.arange(0, column_block)
        products = _products(own, other, rows, columns, n, m, d, row_block, column_block, depth_block)
        weights = tl.zeros((row_block, column_block), tl.float32)
        for which in range(0, k):
            exponents = (
                products * tl.load(rates + which)
                + tl.load(own_exponents + which * n + rows, mask=rows < n, other=float("-inf"))[:, None]
                + tl.load(other_exponents + which * m + columns, mask=columns < m, other=float("-inf"))[None, :]
            )
            factors = (
                tl.load(own_factors + which * n + rows, mask=rows < n, other=0.0)[:, None]
                * tl.load(other_factors + which * m + columns, mask=columns < m, other=0.0)[None, :]
            )
            weights += factors * tl.exp(exponents)
        if exclude_self:
            weights = tl.where(rows[:, None] == columns[None, :], 0.0, weights)
        mass += tl.sum(weights, 1)
        points = tl.load(
            other + columns.to(tl.int64)[:, None] * d + wide[None, :],
            mask=(columns < m)[:, None] & (wide < d)[None, :],
            other=0.0,
        )
        pulled_to = tl.dot(weights, points, pulled_to, input_precision="ieee")
    places = rows.to(tl.int64)[:, None] * d + wide[None, :]
    inside = (rows < n)[:, None] & (wide < d)[None, :]
    origin = tl.load(own + places, mask=inside, other=0.0)
    tl.store(result + places, mass[:, None] * origin - pulled_to, mask=inside)
