"""Devices and precisions: what their names stand for on this machine, and how to compute with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from setclip_cli.errors import UsageError, first_line

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str, *, setting: str) -> torch.device:
    """The device of ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``: a CUDA GPU if there is one, else the CPU.

    Args:
        setting: What the user gave the name to, as a message should call it.

    Raises:
        SetClipError: torch does not know the device, or cannot use it on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"{setting} {name!r}: torch cannot use it on this machine ({first_line(error)})",
            fix="choose auto, cpu, cuda, cuda:1 or mps; `setclip doctor` lists the devices of this machine",
        ) from error
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a precision's name; ``auto`` is bfloat16 on a CUDA GPU that has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return PRECISIONS[name]


def resolve_training_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of ``train.precision``, as `resolve_precision` says.

    Raises:
        SetClipError: float16, whose small gradients need the scaler that torch has for CUDA, on another device.
    """
    if name == "float16" and device.type != "cuda":
        raise UsageError(
            f"train.precision 'float16': training in it needs a CUDA GPU, not {device.type}",
            fix="--set train.precision=bfloat16, or float32",
        )
    return resolve_precision(name, device)


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Runs matrix products in ``precision``; float32 changes nothing."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, dtype=precision)


@contextmanager
def tf32(device: torch.device, wanted: bool) -> Iterator[None]:
    """Runs float32 matrix products in TensorFloat-32 if it is wanted and the device is a CUDA GPU."""
    if not wanted or device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor to copy to ``device`` later; in pinned memory for a CUDA GPU, so that nothing waits for the copy."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
