"""`train.kernels`: which code computes the kernel sums of the losses. The first batch decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from setclip_cli.console import note
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.losses.kernel_check import Trial, triton_kernel_sum, why_no_triton
from setclip_cli.losses.kernels import computing_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import nn

    from setclip_cli.losses.kernels import KernelSum
    from setclip_cli.training.distributed import Group

_INSTEAD = "--set train.kernels=torch, or auto, which then takes plain torch by itself"


def require_kernels(wanted: str, device: torch.device) -> None:
    """Raises SetClipError if ``train.kernels`` is "triton" and this machine surely cannot run them on the device."""
    if wanted == "triton" and (reason := why_no_triton(device)):
        raise UsageError(f"train.kernels = 'triton': the Triton kernels cannot run: {reason}", fix=_INSTEAD)


class KernelChoice:
    """The code for the kernel sums of one training.

    Attributes:
        taken: "torch" or "triton"; None before the first batch.
    """

    def __init__(self, wanted: Literal["auto", "triton", "torch"], device: torch.device, group: Group) -> None:
        self.taken: Literal["torch", "triton"] | None = None
        self._wanted, self._device, self._group = wanted, device, group
        self._kernel_sum: KernelSum | None = None

    def settle(self, objective: nn.Module, compute: Callable[[], object]) -> None:
        """Decides, on the first call: Triton if all its kernel sums of this batch are those of plain torch.

        All processes take the same: each computes the losses of the whole batch, and they must not drift apart.

        Args:
            objective: Its state is left as it was.
            compute: Computes the objective of the batch.

        Raises:
            SetClipError: ``train.kernels`` is "triton", and the trial failed.
        """
        if self.taken is not None:
            return
        self.taken = "torch"
        silent = self._device.type != "cuda" and why_no_triton(self._device) is not None  # as on most machines
        if self._wanted == "torch" or (self._wanted == "auto" and silent):
            return
        trial, reason = Trial(triton_kernel_sum), why_no_triton(self._device)
        if reason is None:
            before = objective.state_dict()
            with torch.no_grad(), computing_with(trial):
                compute()
            objective.load_state_dict(before)
            reason = trial.failure or (None if trial.sums else "had nothing to compute on the first batch")
        else:
            reason = f"cannot run: {reason}"
        if self._group.all_of(reason is None, self._device):
            self.taken, self._kernel_sum = "triton", triton_kernel_sum
            self._say(
                f"the Triton kernels; on the first batch {trial.sums} kernel sums and their gradients differ from "
                f"those of plain torch by {trial.difference:.1g} at most"
            )
            return
        found = f"the Triton kernels {reason or 'failed on the first batch in another process'}"
        if self._wanted == "triton":
            raise SetClipError(f"train.kernels = 'triton': {found}", fix=_INSTEAD)
        self._say(f"plain torch, because {found}")

    def in_use(self) -> AbstractContextManager[None]:
        """The context to compute the objective in."""
        return computing_with(self._kernel_sum)

    def _say(self, what: str) -> None:
        if self._group.main:
            note(f"note: train.kernels: {what}")
