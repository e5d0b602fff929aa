"""What the names of devices and precisions stand for on this machine. Every command resolves them here."""

from __future__ import annotations

import torch

from setclip_cli.errors import ExitCode, SetClipError, first_line

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
        raise SetClipError(
            f"{setting} {name!r}: torch cannot use it on this machine ({first_line(error)})",
            fix="choose auto, cpu, cuda, cuda:1 or mps; `setclip doctor` lists the devices of this machine",
            exit_code=ExitCode.USAGE,
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
        raise SetClipError(
            f"train.precision 'float16': training in it needs a CUDA GPU, not {device.type}",
            fix="--set train.precision=bfloat16, or float32",
            exit_code=ExitCode.USAGE,
        )
    return resolve_precision(name, device)
