"""Checks of the Triton kernels: are they right, and what do they save?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from gpu_check import Findings, NotHereError, Place, peak_mib, seconds, short
from torch import Tensor

from setclip_cli.losses.kernel_check import triton_kernel_sum, why_no_triton
from setclip_cli.losses.kernels import KernelSum, computing_with, log_kernel_sum
from setclip_cli.losses.sdd import sdd

WIDTH = 256  # of the embeddings
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 1e-2}  # of gradients, which have the dtype of the rows

Case = tuple[int, int, int, list[float], bool, torch.dtype]  # n, m, d, bandwidths, exclude_self, dtype
SMALL: list[Case] = [
    (67, 131, 19, [0.2], False, torch.float32),
    (70, 90, 16, [0.05, 0.2, 2.0], True, torch.float32),
    (1, 1, 3, [0.2], False, torch.float32),
    (33, 65, 24, [0.2], True, torch.bfloat16),
]
FULL: list[Case] = [
    *SMALL,
    (20, 30, 300, [0.2], False, torch.float32),
    (1000, 777, WIDTH, [0.1, 0.5], False, torch.float32),
    (4097, 4099, WIDTH, [0.2], True, torch.float32),
    (4096, 8192, WIDTH, [0.2], False, torch.bfloat16),
    (2049, 1023, 384, [0.2], False, torch.bfloat16),
]
ROWS = (4096, 16_384, 65_536)
TOY_ROWS = (33, 65)


@contextmanager
def triton_here(place: Place) -> Iterator[KernelSum]:
    """The Triton kernels; at toy sizes interpreted, on a CPU.

    Raises:
        NotHereError: this machine cannot run them.
    """
    before = os.environ.get("TRITON_INTERPRET")
    if place.device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # other users of Triton must not see it, such as torch.compile
    try:
        if reason := why_no_triton(place.device):
            raise NotHereError(f"the Triton kernels cannot run: {reason}")
        yield triton_kernel_sum
    finally:
        if before is None:
            os.environ.pop("TRITON_INTERPRET", None)
        else:
            os.environ["TRITON_INTERPRET"] = before


def unit_rows(n: int, d: int, seed: int, place: Place, dtype: torch.dtype = torch.float32) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 0.3
    return F.normalize(rows, dim=1).to(place.device, dtype)


def right(place: Place, findings: Findings) -> None:
    """Value and gradients against plain torch in float64, of the same rows."""
    worst: dict[str, float] = {}
    with triton_here(place) as kernel_sum:
        for case in SMALL if place.toy else FULL:
            n, m, d, bandwidths, exclude_self, dtype = case
            x, y = unit_rows(n, d, 0, place, dtype), unit_rows(m, d, 1, place, dtype)
            if exclude_self:
                y = torch.cat([x, y[n:]])
            upstream = torch.randn(n, len(bandwidths), generator=torch.Generator().manual_seed(2)).to(place.device)
            with computing_with(kernel_sum):
                found = _value_and_gradients(x, y, bandwidths, exclude_self, upstream)
            expected = _value_and_gradients(x.double(), y.double(), bandwidths, exclude_self, upstream.double())
            name, errors = str(dtype).removeprefix("torch."), []
            for a, b in zip(found, expected, strict=True):
                unit = max(1.0, float(b.abs().max())) if b is expected[0] else max(float(b.abs().max()), 1e-30)
                errors.append(float((a.double() - b).abs().max()) / unit)
            for what, error, accepted in (("value", errors[0], 1e-4), ("gradient", max(errors[1:]), TOLERANCES[dtype])):
                worst[f"{what}_{name}"] = max(worst.get(f"{what}_{name}", 0.0), error)
                findings.must(error <= accepted, f"{what} of {case[:5]} in {name} is off by {error:.1g}")
            findings.figures.update({key: short(value) for key, value in worst.items()})


def _value_and_gradients(
    x: Tensor, y: Tensor, bandwidths: list[float], exclude_self: bool, upstream: Tensor
) -> list[Tensor]:
    x, y = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
    value = log_kernel_sum(x, y, bandwidths, exclude_self=exclude_self)
    return [value.detach(), *torch.autograd.grad(value, (x, y), upstream.to(value.dtype))]


def cost(place: Place, findings: Findings) -> None:
    """sdd, forward and backward, by the Triton kernels and in plain torch: time, and memory above the rows."""
    width = 16 if place.toy else WIDTH
    with triton_here(place) as kernel_sum:
        for n in TOY_ROWS if place.toy else ROWS:
            x, y = (unit_rows(n, width, seed, place).requires_grad_() for seed in (0, 1))
            taken, held = {}, {}
            for name, chosen in (("triton", kernel_sum), ("torch", None)):
                step = partial(_forward_backward, x, y, chosen)
                step()
                held[name] = peak_mib(step, place) or 0.0
                taken[name] = seconds(step, place, repeats=1 if place.toy or n == ROWS[-1] else 3, warm=False)
                findings.figures[f"{name}_ms_{n}"] = short(1000 * taken[name])
                if place.judged:
                    findings.figures[f"{name}_mib_{n}"] = short(held[name])
            slower, more = taken["triton"] / taken["torch"], held["triton"] - held["torch"]
            findings.goal(slower <= 1, f"n = {n}: Triton takes {slower:.2f} times the time of plain torch")
            findings.goal(more <= 1, f"n = {n}: Triton holds {more:.0f} MiB more than plain torch")


def _forward_backward(x: Tensor, y: Tensor, kernel_sum: KernelSum | None) -> None:
    x.grad = y.grad = None
    with computing_with(kernel_sum):
        torch.autograd.backward(sdd(x, y))
