"""The trial of other kernels: the right ones pass it, and every wrong one is found and named."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.losses.kernel_check import Trial, why_no_triton
from setclip_cli.losses.kernels import KernelSum, computing_with, log_kernel_sum, plain_kernel_sum
from setclip_cli.losses.mk_mmd import mk_mmd
from setclip_cli.losses.sdd import sdd


def unit(n: int, d: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 0.3, dim=1)


def with_values(change: Callable[[Tensor], Tensor]) -> KernelSum:
    """Kernel sums whose values are changed; their gradients are right, or follow."""
    return lambda x, y, scales, exclude_self: change(plain_kernel_sum(x, y, scales, exclude_self))


def in_double(x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
    return plain_kernel_sum(x.double(), y.double(), scales, exclude_self).float()


def with_itself(x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
    return plain_kernel_sum(x, y, scales, False)


def twice_the_gradient(rows: Tensor) -> Tensor:
    return rows + (rows - rows.detach())


def without_the_rest(x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
    """As if the last, unfilled block of y were forgotten."""
    return plain_kernel_sum(x, y[: len(y) // 16 * 16] if not exclude_self else y, scales, exclude_self)


def one_bandwidth(x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
    return plain_kernel_sum(x, y, [scales[0]] * len(scales), exclude_self)


def in_tf32(x: Tensor, y: Tensor, scales: list[float], exclude_self: bool) -> Tensor:
    """As if the products were taken with the 10 bits of TensorFloat-32."""

    def cut(rows: Tensor) -> Tensor:
        return rows + ((rows.detach().view(torch.int32) & ~0x1FFF).view(torch.float32) - rows.detach())

    return plain_kernel_sum(cut(x), cut(y), scales, exclude_self)


def one_nan(values: Tensor) -> Tensor:
    return torch.where(torch.arange(len(values))[:, None] == len(values) - 1, torch.nan, values)


def no_image(*_: object) -> Tensor:
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore lines")


WRONG = {
    "a value off by a little": (with_values(lambda values: values * 1.001), "in a value"),
    "NaN in the last row": (with_values(one_nan), "by inf in"),
    "transposed": (
        with_values(lambda values: values.T),
        "failed on the first batch (ValueError: the values have the shape",
    ),
    "gradient of the left rows": (
        lambda x, y, scales, exclude_self: plain_kernel_sum(twice_the_gradient(x), y, scales, exclude_self),
        "the gradient of the left rows",
    ),
    "gradient of the right rows": (
        lambda x, y, scales, exclude_self: plain_kernel_sum(x, twice_the_gradient(y), scales, exclude_self),
        "the gradient of the right rows",
    ),
    "no gradient": (with_values(lambda values: values.detach()), "failed on the first batch (RuntimeError"),
    "counts itself": (with_itself, "differ from plain torch"),
    "forgets the rest of y": (without_the_rest, "differ from plain torch"),
    "one bandwidth for all": (one_bandwidth, "in a value"),
    "TensorFloat-32": (in_tf32, "differ from plain torch"),
    "no kernel for this GPU": (no_image, "(RuntimeError: CUDA error: no kernel image is available for execution on"),
}


def tried(kernel_sum: KernelSum) -> tuple[Trial, Tensor]:
    """A trial on what an objective computes: sdd without itself, with and without a bank, and mk_mmd."""
    x, y, bank = unit(67, 19, 0), unit(70, 19, 1), unit(33, 19, 2)
    trial = Trial(kernel_sum)
    with torch.no_grad(), computing_with(trial):
        found = sdd(x, y, [0.2, 0.5], leave_one_out=True, x_bank=bank) + mk_mmd(x, y)
    return trial, found


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_is_refused_and_named_and_its_values_are_not_used(name: str) -> None:
    kernel_sum, words = WRONG[name]
    trial, found = tried(kernel_sum)
    assert trial.failure is not None
    assert words in trial.failure
    assert "\n" not in trial.failure
    plain = tried(plain_kernel_sum)[1]
    assert torch.equal(found, plain)


@pytest.mark.parametrize("kernel_sum", [plain_kernel_sum, in_double])
def test_right_kernels_pass_in_every_sum_of_the_objective(kernel_sum: KernelSum) -> None:
    trial, _ = tried(kernel_sum)
    assert trial.failure is None
    assert trial.sums == 4 + 2 + 3  # sdd, its bank, mk_mmd
    assert trial.difference < 1e-5


@pytest.mark.parametrize(
    ("x", "y", "bandwidth"),
    [
        (unit(60, 16, 0) * 0.9, unit(50, 16, 1) * 0.9, 8e-4),  # exponents of up to 4,000
        (torch.eye(4), torch.eye(4), 0.2),  # every row is at its one neighbour, so pulls cancel to a thousandth
    ],
    ids=["a small bandwidth", "pulls that cancel"],
)
def test_the_rounding_of_float32_is_no_mistake(x: Tensor, y: Tensor, bandwidth: float) -> None:
    trial = Trial(in_double)
    with torch.no_grad(), computing_with(trial):
        log_kernel_sum(x, y, [bandwidth])
    assert trial.sums == 1
    assert trial.failure is None


def test_other_kernels_are_used_inside_the_context_only() -> None:
    x, y = unit(5, 4, 0), unit(6, 4, 1)
    with computing_with(no_image), pytest.raises(RuntimeError, match="no kernel image"):
        sdd(x, y)
    sdd(x, y)
    with computing_with(no_image):
        sdd(x.double(), y.double())  # they are for float32


@pytest.mark.parametrize(
    ("device", "interpreted", "installed", "words"),
    [
        ("cpu", False, True, "they need a CUDA GPU, and the device is cpu"),
        ("mps", False, True, "they need a CUDA GPU, and the device is mps"),
        ("cuda", False, False, "the package triton is not installed"),
        ("cpu", True, False, "the package triton is not installed"),
    ],
)
def test_where_triton_cannot_run_is_known_before_it_runs(
    monkeypatch: pytest.MonkeyPatch, device: str, interpreted: bool, installed: bool, words: str
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1" if interpreted else "0")
    if not installed:
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert why_no_triton(torch.device(device)) == words
