"""The objective of a training step: named terms, each with a weight and the steps in which it counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from setclip_cli.losses import clip as clip_loss
from setclip_cli.losses import neighbourhood as neighbourhood_loss
from setclip_cli.losses import published
from setclip_cli.losses import s_clip as s_clip_loss
from setclip_cli.losses import self_supervised as self_supervised_loss
from setclip_cli.losses import teacher as teacher_loss
from setclip_cli.losses.mk_mmd import mk_mmd
from setclip_cli.losses.sdd import BANDWIDTHS, log_density_ratios

TERMS = ("clip", "mk_mmd", "sdd", "self_supervised", "neighbourhood", "teacher", "s_clip")


@dataclass(frozen=True)
class Side:
    """What one modality brings to a step.

    Attributes:
        features: (n, p) transformed frozen features of the unpaired batch.
        embeddings: (n, d) of the same rows, L2-normalised.
        paired: (b, d) embeddings of this side's items of the known pairs; row i of both sides is one pair. b may be 0.
        paired_features: (b, p) transformed frozen features of the paired rows.
        paired_ids: (b,) int64, which item each paired row is, so that pairs which share an item are told so.
        second_view: (n, d) embeddings of another view of the unpaired batch.
        teacher: (n, c) coordinates of the batch rows that are comparable with the other side's.
    """

    features: Tensor
    embeddings: Tensor
    paired: Tensor
    paired_features: Tensor | None = None
    paired_ids: Tensor | None = None
    second_view: Tensor | None = None
    teacher: Tensor | None = None


@dataclass(frozen=True)
class ObjectiveValue:
    """One step's loss.

    Attributes:
        total: Scalar, the weighted sum of the terms.
        terms: Each active term's own value, unweighted, by name.
        weights: The weight each of them had in this step.
        density_gap: Scalar without gradient, mean |log p_X - log p_Y| over the points of both sides, with the
            settings of the sdd term where that is active, else its default ones.
    """

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    density_gap: Tensor


class Clip(nn.Module):
    """``losses.clip.clip`` on the paired rows; pairs that share an item count as positives of each other."""

    def __init__(self, temperature: float = clip_loss.TEMPERATURE, *, learnable_temperature: bool = False) -> None:
        super().__init__()
        log_temperature = torch.tensor(math.log(temperature))
        self.log_temperature: Tensor
        if learnable_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature, persistent=False)

    def forward(self, left: Side, right: Side) -> Tensor:
        if not len(left.paired):
            return left.paired.sum()  # 0, and no gradient: without pairs there is nothing to contrast
        targets = None
        if left.paired_ids is not None and right.paired_ids is not None:
            targets = clip_loss.shared_partners(left.paired_ids, right.paired_ids)
        # never sharper than 0.01, as in the original CLIP
        temperature = self.log_temperature.exp().clamp_min(0.01)
        return clip_loss.clip(left.paired, right.paired, temperature=temperature, targets=targets)


class Sdd(nn.Module):
    """``losses.sdd.sdd`` on the unpaired rows, against a queue of earlier batches when ``queue`` > 0.

    Attributes:
        gap: The density gap of the last call, which it has at hand.
    """

    gap: Tensor

    def __init__(
        self, bandwidths: Sequence[float] = BANDWIDTHS, *, leave_one_out: bool = False, queue: int = 0
    ) -> None:
        super().__init__()
        self.bandwidths, self.leave_one_out = tuple(bandwidths), leave_one_out
        self.left_queue, self.right_queue = Queue(queue), Queue(queue)

    def forward(self, left: Side, right: Side) -> Tensor:
        over_left, over_right = log_density_ratios(
            left.embeddings,
            right.embeddings,
            self.bandwidths,
            leave_one_out=self.leave_one_out,
            x_bank=self.left_queue.rows(),
            y_bank=self.right_queue.rows(),
        )
        self.left_queue.push(left.embeddings)
        self.right_queue.push(right.embeddings)
        self.gap = _mean_size(over_left, over_right)
        return over_left.mean() + over_right.mean()


class Queue(nn.Module):
    """The last ``size`` rows pushed, without gradient; saved with the state, so that a resumed run goes on exactly."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.held: Tensor
        self.register_buffer("held", torch.empty(0, 0))

    def rows(self) -> Tensor | None:
        return self.held if len(self.held) else None

    def push(self, rows: Tensor) -> None:
        if self.size:
            rows = rows.detach()
            self.held = torch.cat([self.held.to(rows), rows])[-self.size :] if len(self.held) else rows[-self.size :]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        held = state_dict.get(f"{prefix}held")
        if held is not None:
            self.held = torch.empty_like(held)  # it grows, so its shape is the state's
        super()._load_from_state_dict(state_dict, prefix, *args)


class MkMmd(nn.Module):
    """``losses.mk_mmd.mk_mmd`` on the unpaired rows; the median rule when no bandwidths are given."""

    def __init__(self, bandwidths: Sequence[float] | None = None, *, unbiased: bool = False) -> None:
        super().__init__()
        self.bandwidths, self.unbiased = bandwidths, unbiased

    def forward(self, left: Side, right: Side) -> Tensor:
        return mk_mmd(left.embeddings, right.embeddings, self.bandwidths, unbiased=self.unbiased)


class SelfSupervised(nn.Module):
    """``losses.self_supervised.self_supervised``, the sum over both sides."""

    def __init__(self, temperature: float = self_supervised_loss.TEMPERATURE) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, left: Side, right: Side) -> Tensor:
        if left.second_view is None or right.second_view is None:
            raise ValueError("the self_supervised term needs Side.second_view of both sides")
        return self_supervised_loss.self_supervised(
            left.embeddings, left.second_view, temperature=self.temperature
        ) + self_supervised_loss.self_supervised(right.embeddings, right.second_view, temperature=self.temperature)


class Neighbourhood(nn.Module):
    """``losses.neighbourhood.neighbourhood``, the sum over both sides."""

    def __init__(
        self,
        feature_temperature: float = neighbourhood_loss.TEMPERATURE,
        temperature: float = neighbourhood_loss.TEMPERATURE,
    ) -> None:
        super().__init__()
        self.feature_temperature, self.temperature = feature_temperature, temperature

    def forward(self, left: Side, right: Side) -> Tensor:
        return self._of(left) + self._of(right)

    def _of(self, side: Side) -> Tensor:
        return neighbourhood_loss.neighbourhood(
            side.features,
            side.embeddings,
            temperature=self.feature_temperature,
            embedding_temperature=self.temperature,
        )


class Teacher(nn.Module):
    """``losses.teacher.teacher`` on the unpaired rows; 0 where there are no coordinates (zero pairs)."""

    def __init__(self, temperature: float = clip_loss.TEMPERATURE, sharpness: float = teacher_loss.SHARPNESS) -> None:
        super().__init__()
        self.temperature, self.sharpness = temperature, sharpness

    def forward(self, left: Side, right: Side) -> Tensor:
        if left.teacher is None or right.teacher is None:
            return left.embeddings.sum() * 0.0
        return teacher_loss.teacher(
            left.embeddings,
            right.embeddings,
            left.teacher,
            right.teacher,
            temperature=self.temperature,
            sharpness=self.sharpness,
        )


class SClip(nn.Module):
    """``losses.s_clip.s_clip``, the sum over both sides; 0 without pairs."""

    def __init__(
        self, temperature: float = clip_loss.TEMPERATURE, regularisation: float = s_clip_loss.REGULARISATION
    ) -> None:
        super().__init__()
        self.temperature, self.regularisation = temperature, regularisation

    def forward(self, left: Side, right: Side) -> Tensor:
        if not len(left.paired):
            return left.paired.sum()
        return self._of(left, right) + self._of(right, left)

    def _of(self, side: Side, other: Side) -> Tensor:
        if side.paired_features is None:
            raise ValueError("the s_clip term needs Side.paired_features of both sides")
        return s_clip_loss.s_clip(
            side.embeddings,
            other.paired,
            side.features,
            side.paired_features,
            temperature=self.temperature,
            regularisation=self.regularisation,
        )


class Published(nn.Module):
    """A term in the form that was released (``losses.published``), on the released layout: pairs first, then the rest.

    The self-supervised term sees the unpaired rows only, which are those that have a second view.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in {"clip", "sdd", "mk_mmd", "self_supervised"}:
            raise ValueError(f"term {name!r} has no published form")
        self.name = name

    def forward(self, left: Side, right: Side) -> Tensor:
        if self.name == "self_supervised":
            if left.second_view is None or right.second_view is None:
                raise ValueError("the self_supervised term needs Side.second_view of both sides")
            return published.nt_xent(left.embeddings, left.second_view) + published.nt_xent(
                right.embeddings, right.second_view
            )
        x, y = (torch.cat([side.paired, side.embeddings]) for side in (left, right))
        if self.name == "sdd":
            return published.sdd(x, y)
        if self.name == "mk_mmd":
            return published.mmd(x, y)  # one kernel: what the released training uses
        return published.clip(x, y, pairs=len(left.paired)) if len(left.paired) else left.paired.sum()


@dataclass(frozen=True)
class Term:
    """One loss of the objective.

    Attributes:
        loss: A module from two ``Side``s to a scalar.
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


class Objective(nn.Module):
    """The weighted sum of the terms. A term of weight 0 in a step is not computed."""

    def __init__(self, terms: Mapping[str, Term]) -> None:
        """``terms`` by their fixed names, ``TERMS``."""
        super().__init__()
        unknown = set(terms) - set(TERMS)
        if unknown:
            raise ValueError(f"unknown terms {sorted(unknown)}; known are {', '.join(TERMS)}")
        self.terms = dict(terms)
        self.losses = nn.ModuleDict({name: term.loss for name, term in terms.items()})

    def forward(self, left: Side, right: Side, step: int) -> ObjectiveValue:
        weights = {name: weight for name, term in self.terms.items() if (weight := term.weight_at(step)) > 0}
        values: dict[str, Tensor] = {name: self.losses[name](left, right) for name in weights}
        total = left.embeddings.new_zeros(())
        for name, value in values.items():
            total = total + weights[name] * value
        density = self.losses["sdd"] if "sdd" in values else None
        gap = density.gap if isinstance(density, Sdd) else density_gap(left.embeddings, right.embeddings)
        return ObjectiveValue(total, values, weights, gap)


@torch.no_grad()
def density_gap(x: Tensor, y: Tensor) -> Tensor:
    """Mean |log p_X - log p_Y| over the points of both sets, at the default bandwidth; 0 for equal sets."""
    return _mean_size(*log_density_ratios(x, y, BANDWIDTHS))


def _mean_size(over_x: Tensor, over_y: Tensor) -> Tensor:
    return torch.cat([over_x.detach(), over_y.detach()]).abs().mean()
