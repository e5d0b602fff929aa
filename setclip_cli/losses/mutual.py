"""Kernel sums of sets in both directions: each tile of the kernel matrix is made once and used twice.

x to y and y to x share one matrix. The matrix of a set with itself is symmetric, so only its upper half is walked. This
is half the arithmetic of one ``log_kernel_sum`` for each direction. In float32 a kernel of unit rows stays within range
even if the largest exponent of a row is not taken out first, so a tile takes one matrix product and one exponential:

    exp(-‖x_i - y_j‖² / s) = a_i b_j E_ij, E_ij = exp(2 x_i·y_j / s), a_i = exp(-‖x_i‖² / s), b_j = exp(-‖y_j‖² / s)

Sets too wide for that use ``log_kernel_sum``, which has no such bound; so does all that is inside ``computing_with``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from setclip_cli.losses.kernels import centre_of, check_rows, checked_bandwidths, fused_kernel_sum, log_kernel_sum

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK = 512  # rows and columns of a tile: 1 MiB of float32, so that it stays in the second-level cache
_RANGE = 1.1  # of log(largest float): exponents reach from -3/4 to 1/2 of 4 max‖x‖² / s, and sums of them a little more


def mutual_log_kernel_sums(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | Tensor,
    *,
    block_size: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """``log_kernel_sum(x, y)`` and ``log_kernel_sum(y, x)``.

    Args:
        x, y: (n, d), (m, d) rows, any floating dtype; half precision is computed in float32.
        bandwidths: k values s > 0 of exp(-‖·‖² / s). No gradient flows into them.
        block_size: Side of a tile. The result does not depend on it beyond rounding.

    Returns:
        (n, k) and (m, k) in float32, or float64 when an input is float64. Differentiable once, in x and in y.

    Raises:
        ValueError: shapes that do not fit, an empty set, NaN or inf, a bandwidth that is not positive.
    """
    scales = checked_bandwidths(bandwidths)
    check_rows("mutual_log_kernel_sums", x=x, y=y)
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y = x.to(dtype), y.to(dtype)
    centre = centre_of(x, y)
    if not _in_range(scales, x.detach() - centre, y.detach() - centre):
        return log_kernel_sum(x, y, scales), log_kernel_sum(y, x, scales)
    over_y, over_x = _KernelSums.apply(x - centre, y - centre, scales, False, block_size)
    return over_y, over_x


def own_log_kernel_sum(
    x: Tensor,
    bandwidths: Sequence[float] | Tensor,
    *,
    exclude_self: bool = False,
    block_size: int = BLOCK,
) -> Tensor:
    """``log_kernel_sum(x, x)``: (n, k). The arguments are those of ``mutual_log_kernel_sums``.

    Raises:
        ValueError: also for a single row with exclude_self.
    """
    scales = checked_bandwidths(bandwidths)
    check_rows("own_log_kernel_sum", x=x)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    centre = centre_of(x, x)
    if (exclude_self and len(x) < 2) or not _in_range(scales, x.detach() - centre):
        return log_kernel_sum(x, x, scales, exclude_self=exclude_self)
    result: Tensor
    result, _ = _KernelSums.apply(x - centre, None, scales, exclude_self, block_size)
    return result


def _in_range(scales: list[float], *sets: Tensor) -> bool:
    """Whether these centred sets fit the arithmetic of this module, and nothing faster was chosen."""
    if sets[0].dtype == torch.float32 and fused_kernel_sum() is not None:
        return False
    spread = max(float(rows.square().sum(1).max()) for rows in sets)
    return 4 * spread / min(scales) <= _RANGE * math.log(torch.finfo(sets[0].dtype).max)


class _KernelSums(torch.autograd.Function):
    """Of centred x and y, or of x with itself if y is None."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        scales: list[float],
        exclude_self: bool,
        block_size: int,
    ) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(x.device.type, enabled=False):
            tiles = _Tiles(x, y, scales, exclude_self, block_size)
            a = _log_factors(x, scales).exp()
            b = a if y is None else _log_factors(y, scales).exp()
            over_y = x.new_zeros(len(x), len(scales))
            over_x = over_y if y is None else y.new_zeros(len(y), len(scales))
            for rows, columns, k, tile in tiles:
                over_y[rows, k] += tile @ b[columns, k]
                if tiles.mirrored(rows, columns):
                    over_x[columns, k] += tile.T @ a[rows, k]
        ctx.save_for_backward(x, *([] if y is None else [y, b, over_x]), a, over_y)
        ctx.options = (scales, exclude_self, block_size)
        sums = over_y.log() + _log_factors(x, scales)
        return sums, None if y is None else over_x.log() + _log_factors(y, scales)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, upstream_over_x: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *of_y, a, over_y = ctx.saved_tensors
        y, b, over_x = of_y or (None, a, over_y)
        scales, exclude_self, block_size = ctx.options
        # Both directions pull on the same differences: Σ_j W_ij (x_i - y_j), W_ij = Σ_b E_ij (p_i b_j + a_i q_j),
        # where p and q are the upstream values over the sums. Centred rows keep a difference of two sums accurate.
        p = _pulls(upstream, over_y, scales)
        q = p if y is None or upstream_over_x is None else _pulls(upstream_over_x, over_x, scales)
        with torch.autocast(x.device.type, enabled=False):
            tiles = _Tiles(x, y, scales, exclude_self, block_size)
            grad_x, mass_x = torch.zeros_like(x), x.new_zeros(len(x))
            grad_y, mass_y = (grad_x, mass_x) if y is None else (torch.zeros_like(y), y.new_zeros(len(y)))
            weights = x.new_empty(block_size, block_size)
            for rows, columns, k, tile in tiles:
                left, right = torch.stack((p[rows, k], a[rows, k]), 1), torch.stack((b[columns, k], q[columns, k]))
                tile *= torch.mm(left, right, out=weights[: len(left), : right.shape[1]])
                grad_x[rows].addmm_(tile, tiles.y[columns], alpha=-1)
                mass_x[rows] += tile.sum(1)
                if tiles.mirrored(rows, columns):
                    grad_y[columns].addmm_(tile.T, tiles.x[rows], alpha=-1)
                    mass_y[columns] += tile.sum(0)
            grad_x.addcmul_(mass_x[:, None], x)
            if y is not None:
                grad_y.addcmul_(mass_y[:, None], y)
        return grad_x, None if y is None else grad_y, None, None, None


class _Tiles:
    """Walks E tile by tile, for each bandwidth; only the upper half for a set with itself."""

    def __init__(self, x: Tensor, y: Tensor | None, scales: list[float], exclude_self: bool, block_size: int) -> None:
        self.x, self.y, self.own = x, x if y is None else y, y is None
        self.scales, self.exclude_self, self.block_size = scales, exclude_self, block_size
        self.buffer = x.new_empty(2 if len(scales) > 1 else 1, block_size * block_size)

    def __iter__(self) -> Iterator[tuple[slice, slice, int, Tensor]]:
        last = len(self.scales) - 1
        scaled = self.x * (2 / self.scales[last])
        for row in range(0, len(self.x), self.block_size):
            rows = slice(row, min(row + self.block_size, len(self.x)))
            for column in range(row if self.own else 0, len(self.y), self.block_size):
                columns = slice(column, min(column + self.block_size, len(self.y)))
                shape = (rows.stop - rows.start, columns.stop - columns.start)
                buffers = [part[: shape[0] * shape[1]].view(shape) for part in self.buffer]
                products = torch.mm(scaled[rows], self.y[columns].T, out=buffers[0])
                for k, scale in enumerate(self.scales):  # the last bandwidth may overwrite the products
                    ratio = self.scales[last] / scale
                    tile = products.exp_() if k == last else torch.mul(products, ratio, out=buffers[1]).exp_()
                    if self.exclude_self and row == column:
                        tile.fill_diagonal_(0)
                    yield rows, columns, k, tile

    def mirrored(self, rows: slice, columns: slice) -> bool:
        """Whether the tile also counts for its columns: all but those on the diagonal of a set with itself."""
        return not (self.own and rows == columns)


def _log_factors(rows: Tensor, scales: list[float]) -> Tensor:
    """(n, k) -‖x_i‖² / s_b."""
    return -rows.square().sum(1, keepdim=True) / rows.new_tensor(scales)


def _pulls(upstream: Tensor, sums: Tensor, scales: list[float]) -> Tensor:
    """(n, k) -2 / s_b times upstream over the sums, which ``_in_range`` keeps above 0."""
    return upstream * (-2 / sums.new_tensor(scales)) / sums
