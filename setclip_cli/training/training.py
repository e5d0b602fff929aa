"""One training: its state and its one step. `build.build_training` makes it from a recipe.

A step draws unpaired rows of each side and known pairs from independent streams, takes the gradient of each term of the
objective at the embeddings, and sends their sum back through the towers. Labels and groups are never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from setclip_cli.backbones.former_names import with_present_names
from setclip_cli.losses import log_density_ratios
from setclip_cli.losses.terms import StepSide
from setclip_cli.training.checks import check_embeddings, check_gradient, check_terms
from setclip_cli.training.embedded import EmbeddedPart
from setclip_cli.training.tower import under

if TYPE_CHECKING:
    from setclip_cli.losses.objective import TrainingObjective
    from setclip_cli.training.batches import Batches, PartName
    from setclip_cli.training.distributed import Group
    from setclip_cli.training.kernel_choice import KernelChoice
    from setclip_cli.training.tower import TrainingTower
    from setclip_cli.training.updater import Updater

EmbeddedSide = dict["PartName", EmbeddedPart]
Coordinates = Callable[[Tensor, Tensor], Tensor]  # of the numbers and the (n, p) transformed features of rows, (n, c)


class Training:
    """The state of a training. Everything random is a function of the seed and the step.

    Attributes:
        taken: Steps already taken, over all members of the ensemble.
        steps: Steps to take.
        initial: The encoders before the first step.
    """

    def __init__(
        self,
        towers: tuple[TrainingTower, TrainingTower],
        objective: TrainingObjective,
        batches: Batches,
        updater: Updater,
        group: Group,
        *,
        kernels: KernelChoice,
        coordinates: tuple[Coordinates, Coordinates] | None,
    ) -> None:
        """``coordinates``: of rows of either side, comparable between the sides, for the teacher term."""
        self.towers, self.objective, self.batches = towers, objective, batches
        self.updater, self.group, self.coordinates, self.kernels = updater, group, coordinates, kernels
        self.taken, self.steps = 0, batches.steps * batches.members
        self.initial = (towers[0].encoder(), towers[1].encoder())
        self._last = (towers[0].features[:0], towers[1].features[:0])
        self.updater.begin(self._trained(member=0))

    def advance(self) -> dict[str, float]:
        """Takes one step and returns what it measured, by the keys of metrics.jsonl.

        Raises:
            SetClipError: a term or a gradient is not finite; all that `tensors` gives is as it was before the step.
        """
        before = self.objective.state_dict()
        try:
            return self._step()
        except BaseException:
            self.objective.load_state_dict(before)  # its queue holds the rows of the step that failed
            raise

    def _step(self) -> dict[str, float]:
        member, step = divmod(self.taken, self.batches.steps)
        if step == 0:
            self.updater.begin(self._trained(member))
        left, right = (
            {name: EmbeddedPart(tower, member, part, self.group) for name, part in side.items()}
            for tower, side in zip(self.towers, self.batches.take(self.taken), strict=True)
        )
        parts = [*left.values(), *right.values()]
        check_embeddings(
            self.taken + 1,
            {"left": [part.leaf for part in left.values()], "right": [part.leaf for part in right.values()]},
            self.objective.terms,
            rates=self._rates(),
        )
        sides = self._side(0, left, step), self._side(1, right, step)
        self.kernels.settle(self.objective, lambda: self.objective(*sides, step))
        with self.kernels.in_use():
            value = self.objective(*sides, step)
        inputs = [*(part.leaf for part in parts), *self.objective.parameters()]
        # At the embeddings, one backward a term: their sum is the whole gradient, their norms its shares.
        gradients = {name: _gradients(term, inputs) for name, term in value.terms.items()}
        check_terms(self.taken + 1, value.terms, gradients, rates=self._rates())
        self._last = left["unpaired"].leaf.detach(), right["unpaired"].leaf.detach()
        summed = [
            sum((value.weights[name] * found[index] for name, found in gradients.items()), torch.zeros_like(tensor))
            for index, tensor in enumerate(inputs)
        ]

        scaler = self.updater.scaler
        self.updater.optimizer.zero_grad(set_to_none=True)
        for part, gradient in zip(parts, summed, strict=False):
            part.backward(scaler.scale(gradient))
        weights = self._weights(member)
        self.group.sum_gradients(weights.values())
        for parameter, gradient in zip(self.objective.parameters(), summed[len(parts) :], strict=True):
            parameter.grad = scaler.scale(gradient)  # the same on every rank
        norm = self.updater.gradient_norm()
        if not scaler.is_enabled():  # a scaler skips such a step itself
            check_gradient(self.taken + 1, norm, weights, rates=self._rates())
        rate = self.updater.step(step, norm)
        self.taken += 1

        norms = {
            name: value.weights[name] * float(torch.cat([gradient.flatten() for gradient in found]).norm())
            for name, found in gradients.items()
        }
        whole = sum(norms.values()) or 1.0
        return {
            "step": self.taken,
            "loss/total": float(value.total.detach()),
            **{f"loss/{name}": float(term.detach()) for name, term in value.terms.items()},
            **{f"gradient_share/{name}": norm / whole for name, norm in norms.items()},
            **({"gradient_norm": float(norm)} if math.isfinite(norm) else {}),  # not of a step that the scaler skipped
            "lr": rate,
            "density_gap": float(value.density_gap),
            **self._start_cosine((left["unpaired"], right["unpaired"])),
        }

    def _start_cosine(self, parts: tuple[EmbeddedPart, EmbeddedPart]) -> dict[str, float]:
        """Mean cosine of the batch's embeddings with those before the first step, of both sides; nothing without."""
        cosines = [
            torch.nn.functional.cosine_similarity(part.leaf.detach(), tower.started(tower.inputs_of(part.rows)))
            for tower, part in zip(self.towers, parts, strict=True)
            if tower.starts
        ]
        return {"start_cosine": float(torch.cat(cosines).mean())} if len(cosines) == len(parts) else {}

    def last_embeddings(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the unpaired rows of the last step: both sides' embeddings, and |log p_left - log p_right| at each row."""
        left, right = self._last
        over_left, over_right = log_density_ratios(left, right)
        return left, right, torch.cat([over_left, over_right]).abs().flatten()

    def tuned(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The tuned weights of the left and right backbone, by name: averaged ones if there is an average."""
        left, right = (
            {
                name: self.updater.averages.get(f"{tower.side}.backbone.{name}", value).detach().clone()
                for name, value in tower.tuned_parameters().items()
            }
            for tower in self.towers
        )
        return left, right

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        return {
            **{name: value.detach() for name, value in self.updater.weights.items()},
            **{f"objective.{name}": value for name, value in self.objective.state_dict().items()},
            **self.updater.tensors(),
        }

    def restore(self, taken: int, tensors: dict[str, Tensor]) -> None:
        """Restores what `tensors` gave after ``taken`` steps."""
        for tower in self.towers:
            if tower.pool.tuned is not None:
                prefix = f"{tower.side}.backbone."
                tensors = with_present_names(tower.pool.tuned.backbone.spec, tensors, prefix=prefix)
        with torch.no_grad():
            for name, value in self.updater.weights.items():
                value.copy_(tensors[name])
        self.objective.load_state_dict(under("objective.", tensors))
        self.taken = taken
        member = min(taken // self.batches.steps, self.batches.members - 1)
        self.updater.restore(tensors, self._trained(member))

    def _weights(self, member: int) -> dict[str, Tensor]:
        """What a step of this member changes of the towers, by name: the heads of both sides, then the backbones."""
        left, right = self.towers
        weights = left.weights(member) | right.weights(member)
        return dict(sorted(weights.items(), key=lambda named: ".backbone." in named[0]))

    def _trained(self, member: int) -> dict[str, Tensor]:
        """The same, and the parameters of the objective. Checkpoints number the moments in this order."""
        return self._weights(member) | {f"objective.{name}": value for name, value in self.objective.named_parameters()}

    def _rates(self) -> str:
        """The learning rates in words, for the advice to lower them."""
        tuned = any(tower.pool.tuned for tower in self.towers)
        backbones = f" or optim.backbone_lr ({self.updater.backbone_lr})" if tuned else ""
        return f"optim.lr ({self.updater.lr}){backbones}"

    def _side(self, column: int, embedded: EmbeddedSide, step: int) -> StepSide:
        unpaired, paired, second_view = (embedded.get(name) for name in ("unpaired", "paired", "second_view"))
        assert unpaired is not None
        tower = self.towers[column]
        rows = unpaired.rows.to(tower.inputs.device)
        own = paired.rows.to(tower.inputs.device) if paired else rows[:0]
        features = tower.compared(tower.inputs_of(rows))
        teacher = self.objective.terms.get("teacher")
        teaches = self.coordinates is not None and teacher is not None and teacher.weight_at(step) > 0
        return StepSide(
            features=features,
            embeddings=unpaired.leaf,
            paired=paired.leaf if paired else unpaired.leaf[:0],
            paired_features=tower.compared(tower.inputs_of(own)),
            paired_ids=own,
            second_view=second_view.leaf if second_view else None,
            teacher_coordinates=self.coordinates[column](rows, features) if self.coordinates and teaches else None,
        )


def _gradients(term: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The gradient of one term at every input, zeros where the term does not depend on it."""
    if not term.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    found = torch.autograd.grad(term, inputs, allow_unused=True, retain_graph=True)
    return [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(inputs, found, strict=True)
    ]
