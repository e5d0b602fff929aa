"""The objective of a training step: named terms, each with a weight and the steps in which it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from setclip_cli.losses.sdd import log_density_ratios
from setclip_cli.losses.terms import SddTerm, StepSide, mean_size

TERMS = ("clip", "mk_mmd", "sdd", "self_supervised", "neighbourhood", "teacher", "s_clip")


@dataclass(frozen=True)
class ObjectiveValue:
    """One step's loss.

    Attributes:
        total: Scalar, the weighted sum of the terms.
        terms: Each active term's own value, unweighted, by name.
        weights: The weight each of them had in this step.
        density_gap: Scalar without gradient, mean |log p_X - log p_Y| over the points of both sides at the default
            bandwidth, whatever the settings of the sdd term are.
    """

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    density_gap: Tensor


@dataclass(frozen=True)
class WeightedTerm:
    """One loss of the objective.

    Attributes:
        loss: A module from two ``StepSide``s to a scalar.
        weight: Its factor in the total.
        start_step: First step with the term.
        end_step: First step without it; None keeps it throughout.
        warmup_steps: Steps in which the weight rises linearly, full from the last of them on.
    """

    loss: nn.Module
    weight: float
    start_step: int = 0
    end_step: int | None = None
    warmup_steps: int = 0

    def weight_at(self, step: int) -> float:
        """The weight in a step, 0 outside the term's steps."""
        if step < self.start_step or (self.end_step is not None and step >= self.end_step):
            return 0.0
        return self.weight * min(1.0, (step - self.start_step + 1) / max(1, self.warmup_steps))


class TrainingObjective(nn.Module):
    """The weighted sum of the terms. A term of weight 0 in a step is not computed."""

    def __init__(self, terms: Mapping[str, WeightedTerm]) -> None:
        """``terms`` by their fixed names, ``TERMS``."""
        super().__init__()
        unknown = set(terms) - set(TERMS)
        if unknown:
            raise ValueError(f"unknown terms {sorted(unknown)}; known are {', '.join(TERMS)}")
        self.terms = dict(terms)
        self.losses = nn.ModuleDict({name: term.loss for name, term in terms.items()})

    def forward(self, left: StepSide, right: StepSide, step: int) -> ObjectiveValue:
        weights = {name: weight for name, term in self.terms.items() if (weight := term.weight_at(step)) > 0}
        values: dict[str, Tensor] = {name: self.losses[name](left, right) for name in weights}
        total = left.embeddings.new_zeros(())
        for name, value in values.items():
            total = total + weights[name] * value
        sdd = self.losses["sdd"] if "sdd" in values else None
        gap = sdd.gap if isinstance(sdd, SddTerm) else None
        if gap is None:
            gap = density_gap(left.embeddings, right.embeddings)
        return ObjectiveValue(total, values, weights, gap)


@torch.no_grad()
def density_gap(x: Tensor, y: Tensor) -> Tensor:
    """Mean |log p_X - log p_Y| over the points of both sets, at the default bandwidth; 0 for equal sets."""
    return mean_size(*log_density_ratios(x, y))
