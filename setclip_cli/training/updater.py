"""From gradients to weights: AdamW with its schedule, clipping, loss scaling, and the moving average of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from setclip_cli.backbones.tuning import is_pooling
from setclip_cli.run.checkpoint import optimizer_tensors, restore_optimizer
from setclip_cli.training.tower import under

if TYPE_CHECKING:
    from collections.abc import Callable


class Updater:
    """Changes the weights of the towers and of the objective.

    Attributes:
        averages: Moving average of every weight, by name; empty without one.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        *,
        lr: float,
        weight_decay: float,
        backbone_lr: float,
        backbone_weight_decay: float,
        rate: Callable[[int], float],
        clip_norm: float | None,
        ema: float,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Starts the averages; `begin` makes the first optimizer.

        Args:
            weights: All that training changes of the towers, by name.
            lr, weight_decay: Of the projections, of learned poolings and of the objective.
            backbone_lr, backbone_weight_decay: Of all other weights of tuned backbones.
            rate: The factor on the learning rates in a step.
            clip_norm: The most that the norm of the whole gradient may be; None for no limit.
            ema: Decay of the moving average; 0 for none.
        """
        self.weights, self.lr, self.backbone_lr = weights, lr, backbone_lr
        self._heads = {"lr": lr, "weight_decay": weight_decay}
        self._backbones = {"lr": backbone_lr, "weight_decay": backbone_weight_decay}
        self.rate, self.clip_norm, self.ema, self.scaler = rate, clip_norm, ema, scaler
        # Not torch's AveragedModel: it copies whole backbones, and its first average forgets the weights of the start.
        self.averages = {name: value.detach().clone() for name, value in weights.items()} if ema else {}

    def begin(self, trained: dict[str, Tensor]) -> None:
        """Makes a new optimizer for these weights: each member of an ensemble has heads, and so moments, of its own."""
        backbones = [value for name, value in trained.items() if ".backbone." in name and not is_pooling(name)]
        rest = [value for name, value in trained.items() if ".backbone." not in name or is_pooling(name)]
        groups: list[dict[str, Any]] = [{"params": rest, **self._heads}]
        if backbones:
            groups.append({"params": backbones, **self._backbones})
        self._trained = list(trained.values())
        self.optimizer = torch.optim.AdamW(groups)
        for group in self.optimizer.param_groups:
            group["base_lr"] = group["lr"]

    def gradient_norm(self) -> Tensor:
        """Norm of the whole gradient, before it is clipped. A step calls this once, before `step`."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        return torch.nn.utils.get_total_norm([value.grad for value in self._trained if value.grad is not None])

    def step(self, step: int, norm: Tensor) -> float:
        """Clips, changes the weights and moves the averages; returns the learning rate of the projections."""
        factor = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._trained, self.clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            for name, average in self.averages.items():
                average.lerp_(self.weights[name], 1 - self.ema)
        return float(self.optimizer.param_groups[0]["lr"])

    def tensors(self) -> dict[str, Tensor]:
        """Averages, moments and the scale of the loss, by name."""
        return {
            **{f"average.{name}": value for name, value in self.averages.items()},
            **optimizer_tensors(self.optimizer),
            **{f"scaler.{name}": torch.tensor(float(value)) for name, value in self.scaler.state_dict().items()},
        }

    def restore(self, tensors: dict[str, Tensor], trained: dict[str, Tensor]) -> None:
        """Restores what `tensors` gave while these weights were trained."""
        for name, average in self.averages.items():
            average.copy_(tensors[f"average.{name}"])
        if scaler := under("scaler.", tensors):
            counts = {"growth_interval", "_growth_tracker"}
            self.scaler.load_state_dict(
                {name: int(value) if name in counts else float(value) for name, value in scaler.items()}
            )
        self.begin(trained)
        restore_optimizer(self.optimizer, tensors)
