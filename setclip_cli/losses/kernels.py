"""The one kernel-sum primitive: log Σ_j exp(-‖x_i - y_j‖² / s), in tiles, with memory linear in n and m.

Every density and discrepancy of the project is built on ``log_kernel_sum``. A tile of the n x m matrix is made, reduced
and dropped. The backward pass makes it again, so nothing of size n x m is ever kept. The tiles are plain torch
operations. Inside ``computing_with`` other code computes the sums, such as the two kernels of ``kernels_triton.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KernelSum = Callable[[Tensor, Tensor, list[float], bool], Tensor]
"""From float32 (n, d) and (m, d) rows, bandwidths and ``exclude_self`` to the (n, k) sums, differentiable once."""

_fused: ContextVar[KernelSum | None] = ContextVar("_fused", default=None)

BLOCK = 1024  # rows and columns of a tile: 4 MiB of float32, so that it stays in cache between two operations
_GRAM_ERROR = 1e-3  # largest error of an exponent that the matrix-product form of a distance may make


def log_kernel_sum(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | Tensor,
    *,
    exclude_self: bool = False,
    block_size: int = BLOCK,
) -> Tensor:
    """Log of the Gaussian kernel sum of each row of x over the rows of y, for each of k bandwidths.

    out[i, b] = log Σ_j exp(-‖x_i - y_j‖² / s_b)

    On unit vectors this is the log-sum-exp of attention logits. Distances come from matrix products of rows centred on
    their common mean. If a bandwidth is so small against the spread that this form would lose accuracy, they are taken
    coordinate by coordinate, which is exact and slower.

    Args:
        x: (n, d) rows, any floating dtype; half precision is computed in float32.
        y: (m, d) rows.
        bandwidths: k values s > 0. A kernel exp(-‖·‖² / 2σ²) has s = 2σ². No gradient flows into them.
        exclude_self: Leave out j = i. The first n rows of y must then be the rows of x.
        block_size: Side of a tile. The result does not depend on it beyond rounding.

    Returns:
        (n, k) in float32, or float64 when an input is float64. Differentiable once, in x and in y.

    Raises:
        ValueError: shapes that do not fit, an empty set, NaN or inf, a bandwidth that is not positive.
    """
    scales = checked_bandwidths(bandwidths)
    check_rows("log_kernel_sum", **({"x": x} if x is y else {"x": x, "y": y}))
    if exclude_self and (len(y) < len(x) or len(y) < 2):
        raise ValueError(
            f"log_kernel_sum(exclude_self=True) needs the n rows of x first in y and m >= 2; got {len(x)}, {len(y)}"
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y = x.to(dtype), y.to(dtype)
    fused = fused_kernel_sum() if dtype == torch.float32 and x.device == y.device else None
    if fused is not None:
        centre = centre_of(x, y)
        if not _needs_exact_distances(x.detach() - centre, y.detach() - centre, min(scales)):
            return fused(x - centre, y - centre, scales, exclude_self)
    result: Tensor = _LogKernelSum.apply(x, y, scales, exclude_self, block_size)
    return result


def check_rows(caller: str, **sets: Tensor) -> None:
    """Raises ValueError unless every set is a finite, non-empty (rows, d) matrix with one common d."""
    shapes = {name: tuple(rows.shape) for name, rows in sets.items()}
    if (
        any(len(shape) != 2 or 0 in shape for shape in shapes.values())
        or len({shape[1] for shape in shapes.values()}) > 1
    ):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{caller} needs non-empty sets of rows of one width d; got {found}")
    for name, rows in sets.items():
        if not rows.is_floating_point():
            raise ValueError(f"{caller} needs floating-point rows; {name} is {rows.dtype}")
        # one reduction and one comparison for the usual case: a sum with NaN or inf in it is not finite
        if not math.isfinite(float(rows.detach().sum(dtype=torch.float64))):
            bad = int((~torch.isfinite(rows)).any(dim=1).nonzero()[0])
            raise ValueError(f"{caller}: {name} holds NaN or inf, first in row {bad}")


def checked_bandwidths(bandwidths: Sequence[float] | Tensor) -> list[float]:
    """The bandwidths as floats; ValueError unless there is one and all are positive and finite."""
    values = [float(value) for value in (bandwidths.tolist() if isinstance(bandwidths, Tensor) else bandwidths)]
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"bandwidths must be positive numbers, at least one; got {values}")
    return values


def median_bandwidth(x: Tensor, y: Tensor, *, rows: int = 512) -> float:
    """Median squared distance between two rows of the pooled sets, from at most ``rows`` of each; never below 1e-6.

    The median rule of Gretton et al. 2012 (JMLR 13). No gradient flows through it.
    """
    check_rows("median_bandwidth", x=x, y=y)
    pooled = torch.cat([x[:: max(1, len(x) // rows)], y[:: max(1, len(y) // rows)]]).detach().float()
    return max(float(torch.pdist(pooled).square().median()), 1e-6) if len(pooled) > 1 else 1.0


@contextmanager
def computing_with(kernel_sum: KernelSum | None) -> Iterator[None]:
    """Inside it ``kernel_sum`` computes the kernel sums of float32 rows; None is plain torch, as outside of it.

    It gets rows that are centred on their common mean, and no bandwidth that inner products cannot resolve.
    """
    token = _fused.set(kernel_sum)
    try:
        yield
    finally:
        _fused.reset(token)


def fused_kernel_sum() -> KernelSum | None:
    """What ``computing_with`` was given; None outside of it."""
    return _fused.get()


def plain_kernel_sum(x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
    """A ``KernelSum`` in plain torch: what others are compared with."""
    result: Tensor = _LogKernelSum.apply(x, y, scales, exclude_self, BLOCK)
    return result


def centre_of(x: Tensor, y: Tensor) -> Tensor:
    """(d,) common mean of both sets: distances do not depend on the origin, but their rounding does."""
    return ((x.sum(0) + y.sum(0)) / (len(x) + len(y))).detach()


def _needs_exact_distances(x: Tensor, y: Tensor, smallest: float) -> bool:
    """Whether inner products of these centred rows are too inaccurate for the smallest bandwidth."""
    spread = float(torch.maximum(x.square().sum(1).max(), y.square().sum(1).max()))
    return 4 * spread * torch.finfo(x.dtype).eps > _GRAM_ERROR * smallest


class _LogKernelSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scales: list[float],
        exclude_self: bool,
        block_size: int,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            tiles = _Tiles(x, y, min(scales), exclude_self, block_size)
            sums = x.new_full((len(x), len(scales)), -math.inf)
            several = len(y) > block_size
            for rows, _, squared in tiles:
                for k, scale in enumerate(scales):
                    # the last bandwidth may overwrite the tile
                    logits = torch.mul(squared, -1 / scale, out=squared if k == len(scales) - 1 else None)
                    part = _logsumexp_(logits)
                    sums[rows, k] = torch.logaddexp(sums[rows, k], part) if several else part
            if tiles.row_offset is not None:
                sums -= tiles.row_offset[:, None] / x.new_tensor(scales)
        ctx.save_for_backward(x, y, sums)
        ctx.options = (scales, exclude_self, block_size)
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y, sums = ctx.saved_tensors
        scales, exclude_self, block_size = ctx.options
        with torch.autocast(x.device.type, enabled=False):
            tiles = _Tiles(x, y, min(scales), exclude_self, block_size)
            if tiles.row_offset is not None:
                sums = sums + tiles.row_offset[:, None] / x.new_tensor(scales)
            # d out[i] / d x_i = Σ_j P_ij (-2/s)(x_i - y_j), P the softmax over j; for y_j with the sign turned.
            # Upstream values scale rows of x, never the tile. Centred rows keep the difference of two sums accurate.
            pulls = upstream * (-2 / x.new_tensor(scales))
            need_x, need_y = ctx.needs_input_grad[:2]
            grad_x = pulls.sum(1, keepdim=True) * tiles.x if need_x else None
            grad_y = torch.zeros_like(y) if need_y else None
            for rows, columns, squared in tiles:
                for k, scale in enumerate(scales):
                    tile = torch.mul(squared, -1 / scale, out=squared if k == len(scales) - 1 else None)
                    tile -= sums[rows, k, None]
                    tile.exp_()
                    pull = pulls[rows, k, None]
                    if grad_x is not None:
                        grad_x[rows] -= pull * (tile @ tiles.y[columns])
                    if grad_y is not None:
                        grad_y[columns] += (tile.T @ pull) * tiles.y[columns] - tile.T @ (pull * tiles.x[rows])
        return grad_x, grad_y, None, None, None


class _Tiles:
    """Walks the matrix of squared distances tile by tile. If ``row_offset`` is not None, it is not yet added."""

    def __init__(self, x: Tensor, y: Tensor, smallest: float, exclude_self: bool, block_size: int) -> None:
        centre = centre_of(x, y)
        self.x, self.y = x - centre, y - centre
        self.exclude_self, self.block_size = exclude_self, block_size
        self.exact = _needs_exact_distances(self.x, self.y, smallest)
        self.y_squared = self.y.square().sum(1)
        self.row_offset = None if self.exact else self.x.square().sum(1)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        for row in range(0, len(self.x), self.block_size):
            rows = slice(row, min(row + self.block_size, len(self.x)))
            for column in range(0, len(self.y), self.block_size):
                columns = slice(column, min(column + self.block_size, len(self.y)))
                tile = self._squared(rows, columns)
                if self.exclude_self and row == column:
                    tile.diagonal().fill_(math.inf)
                yield rows, columns, tile

    def _squared(self, rows: slice, columns: slice) -> Tensor:
        if self.exact:
            mode = "donot_use_mm_for_euclid_dist"
            return torch.cdist(self.x[rows], self.y[columns], compute_mode=mode).square_()
        return torch.addmm(self.y_squared[columns], self.x[rows], self.y[columns].T, alpha=-2)


def _logsumexp_(logits: Tensor) -> Tensor:
    """Row-wise log-sum-exp; overwrites its argument."""
    largest = logits.amax(1)
    shift = torch.where(largest == -math.inf, 0, largest)  # a row of -inf sums to -inf, not NaN
    return logits.sub_(shift[:, None]).exp_().sum(1).log_().add_(shift)
