"""The Triton kernels are used only after a trial: every kernel sum of a batch, against plain torch."""

from __future__ import annotations

import importlib.util
import math
import os
from typing import TYPE_CHECKING

import torch

from setclip_cli.losses.kernels import plain_kernel_sum

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.losses.kernels import KernelSum

TOLERANCE = 1e-4  # largest difference that is accepted, in the units of ``_units``


def why_no_triton(device: torch.device) -> str | None:
    """Why the Triton kernels cannot run on this device, as far as that is known without running them; None if they can.

    With TRITON_INTERPRET=1 in the environment, Triton interprets them on the CPU. That is very slow, and for tests.
    """
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"they need a CUDA GPU, and the device is {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return None


def triton_kernel_sum(x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
    """A ``KernelSum`` by the Triton kernels."""
    from setclip_cli.losses.kernels_triton import LogKernelSum  # needs triton, and may fail with it

    result: Tensor = LogKernelSum.apply(x, y, scales, exclude_self)
    return result


class Trial:
    """A ``KernelSum`` that returns what plain torch gives, and compares the values and gradients of another with it.

    Attributes:
        sums: How many kernel sums were compared.
        difference: The largest difference so far.
        failure: What was wrong with the other one: "differ ..." or "failed ..."; None if nothing was.
    """

    def __init__(self, other: KernelSum) -> None:
        self._other = other
        self.sums, self.difference = 0, 0.0
        self.failure: str | None = None

    def __call__(self, x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
        upstream = torch.randn(len(x), len(scales), generator=torch.Generator().manual_seed(self.sums)).to(x)
        value, *gradients = _value_and_gradients(plain_kernel_sum, x, y, scales, exclude_self, upstream)
        if self.failure is None:
            try:
                found = _value_and_gradients(self._other, x, y, scales, exclude_self, upstream)
                units = _units(x, y, scales, upstream, gradients)
                differences = _differences(found, [value, *gradients], units)
            except Exception as error:  # whatever a compiler or a driver raises: plain torch still works
                first = str(error).strip().split("\n", 1)[0]
                self.failure = f"failed on the first batch ({type(error).__name__}: {first})"
                return value
            self.sums += 1
            name, largest = max(differences.items(), key=lambda item: item[1])
            self.difference = max(self.difference, largest)
            if largest > TOLERANCE:
                self.failure = (
                    f"differ from plain torch on the first batch by {largest:.1g} in {name}, where {TOLERANCE:g} is "
                    "accepted"
                )
        return value


def _value_and_gradients(
    kernel_sum: KernelSum, x: Tensor, y: Tensor, scales: list[float], exclude_self: bool, upstream: Tensor
) -> list[Tensor]:
    with torch.enable_grad():
        left, right = (rows.detach().clone().requires_grad_() for rows in (x, y))
        value = kernel_sum(left, right, scales, exclude_self)
        if value.shape != upstream.shape:
            raise ValueError(f"the values have the shape {tuple(value.shape)}, not {tuple(upstream.shape)}")
        return [value.detach(), *torch.autograd.grad(value, (left, right), upstream)]


def _differences(found: list[Tensor], expected: list[Tensor], units: list[float]) -> dict[str, float]:
    """The largest difference of the value and of both gradients, by what an error calls them; inf where one is NaN."""
    names = ("a value", "the gradient of the left rows", "the gradient of the right rows")
    differences = {}
    for name, a, b, unit in zip(names, found, expected, units, strict=True):
        largest = float((a - b).abs().max()) / unit
        differences[name] = math.inf if math.isnan(largest) else largest
    return differences


def _units(x: Tensor, y: Tensor, scales: list[float], upstream: Tensor, gradients: list[Tensor]) -> list[float]:
    """What a difference of the value and of the gradients is divided by: 1, and the largest value of a gradient.

    They are larger where float32 itself rounds more. Inner products leave a relative error in each kernel exp(-‖·‖²/s),
    so an absolute one in the sum's logarithm. A gradient is the sum of what the kernels pull, and may be small because
    they cancel; the error of one kernel then still counts in full.
    """
    spread = float(torch.maximum(x.square().sum(1).max(), y.square().sum(1).max()))
    rounding = 4 * spread * torch.finfo(x.dtype).eps / min(scales)
    pull = float((upstream.abs() * (2 / upstream.new_tensor(scales))).sum(1).max()) * 2 * spread**0.5
    largest = [max(float(gradient.abs().max()), torch.finfo(x.dtype).tiny) for gradient in gradients]
    return [max(1.0, rounding / TOLERANCE), *(value + pull * rounding / TOLERANCE for value in largest)]
