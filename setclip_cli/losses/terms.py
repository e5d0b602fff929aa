"""The terms of the objective as modules: each takes what its loss needs from the two sides of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from setclip_cli.defaults import SDD_BANDWIDTH
from setclip_cli.losses import published
from setclip_cli.losses.clip import clip, shared_partners
from setclip_cli.losses.mk_mmd import mk_mmd
from setclip_cli.losses.neighbourhood import neighbourhood
from setclip_cli.losses.s_clip import s_clip
from setclip_cli.losses.sdd import log_density_ratios
from setclip_cli.losses.self_supervised import self_supervised
from setclip_cli.losses.teacher import teacher


@dataclass(frozen=True)
class StepSide:
    """What one modality brings to a step.

    Attributes:
        features: (n, p) transformed frozen features of the unpaired batch.
        embeddings: (n, d) of the same rows, L2-normalised.
        paired: (b, d) embeddings of this side's items of the known pairs; row i of both sides is one pair. b may be 0.
        paired_features: (b, p) transformed frozen features of the paired rows.
        paired_ids: (b,) int64, which item each paired row is: pairs that share an item are partners of each other.
        second_view: (n, d) embeddings of another view of the unpaired batch.
        teacher_coordinates: (n, c) coordinates of the batch rows that are comparable with the other side's.
    """

    features: Tensor
    embeddings: Tensor
    paired: Tensor
    paired_features: Tensor | None = None
    paired_ids: Tensor | None = None
    second_view: Tensor | None = None
    teacher_coordinates: Tensor | None = None


class ClipTerm(nn.Module):
    """``losses.clip.clip`` on the paired rows; pairs that share an item count as positives of each other."""

    def __init__(self, temperature: float, *, learnable_temperature: bool = False) -> None:
        super().__init__()
        log_temperature = torch.tensor(math.log(temperature))
        self.log_temperature: Tensor
        if learnable_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature, persistent=False)

    def forward(self, left: StepSide, right: StepSide) -> Tensor:
        if not len(left.paired):
            return left.paired.sum()  # 0, without gradient: there are no pairs
        targets = None
        if left.paired_ids is not None and right.paired_ids is not None:
            targets = shared_partners(left.paired_ids, right.paired_ids)
        # never sharper than 0.01, as in the original CLIP
        temperature = self.log_temperature.exp().clamp_min(0.01)
        return clip(left.paired, right.paired, temperature=temperature, targets=targets)


class SddTerm(nn.Module):
    """``losses.sdd.sdd`` on the unpaired rows, against a queue of earlier batches when ``queue`` > 0.

    Attributes:
        gap: The density gap of the last call; None unless the settings are the defaults, since others do not give it.
    """

    gap: Tensor | None

    def __init__(self, bandwidths: Sequence[float], *, leave_one_out: bool = False, queue: int = 0) -> None:
        super().__init__()
        self.bandwidths, self.leave_one_out = tuple(bandwidths), leave_one_out
        self.left_queue, self.right_queue = EmbeddingQueue(queue), EmbeddingQueue(queue)

    def forward(self, left: StepSide, right: StepSide) -> Tensor:
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
        default = self.bandwidths == (SDD_BANDWIDTH,) and not self.leave_one_out and not self.left_queue.size
        self.gap = mean_size(over_left, over_right) if default else None
        return over_left.mean() + over_right.mean()


class EmbeddingQueue(nn.Module):
    """The last ``size`` rows pushed, without gradient. They are part of the state, so a resumed run goes on exactly."""

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
            self.held = torch.empty_like(held)  # the queue grows, so its shape is that of the state
        super()._load_from_state_dict(state_dict, prefix, *args)


class MkMmdTerm(nn.Module):
    """``losses.mk_mmd.mk_mmd`` on the unpaired rows; the median rule when no bandwidths are given."""

    def __init__(self, bandwidths: Sequence[float] | None = None, *, unbiased: bool = False) -> None:
        super().__init__()
        self.bandwidths, self.unbiased = bandwidths, unbiased

    def forward(self, left: StepSide, right: StepSide) -> Tensor:
        return mk_mmd(left.embeddings, right.embeddings, self.bandwidths, unbiased=self.unbiased)


class SelfSupervisedTerm(nn.Module):
    """``losses.self_supervised.self_supervised``, the sum over both sides."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, left: StepSide, right: StepSide) -> Tensor:
        if left.second_view is None or right.second_view is None:
            raise ValueError("the self_supervised term needs StepSide.second_view of both sides")
        return self_supervised(left.embeddings, left.second_view, temperature=self.temperature) + self_supervised(
            right.embeddings, right.second_view, temperature=self.temperature
        )


class NeighbourhoodTerm(nn.Module):
    """``losses.neighbourhood.neighbourhood``, the sum over both sides."""

    def __init__(
        self,
        feature_temperature: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.feature_temperature, self.temperature = feature_temperature, temperature

    def forward(self, left: StepSide, right: StepSide) -> Tensor:
        return self._of(left) + self._of(right)

    def _of(self, side: StepSide) -> Tensor:
        return neighbourhood(
            side.features,
            side.embeddings,
            temperature=self.feature_temperature,
            embedding_temperature=self.temperature,
        )


class TeacherTerm(nn.Module):
    """``losses.teacher.teacher`` on the unpaired rows; 0 without coordinates, that is without pairs."""

    def __init__(self, temperature: float, sharpness: float) -> None:
        super().__init__()
        self.temperature, self.sharpness = temperature, sharpness

    def forward(self, left: StepSide, right: StepSide) -> Tensor:
        if left.teacher_coordinates is None or right.teacher_coordinates is None:
            return left.embeddings.sum() * 0.0
        return teacher(
            left.embeddings,
            right.embeddings,
            left.teacher_coordinates,
            right.teacher_coordinates,
            temperature=self.temperature,
            sharpness=self.sharpness,
        )


class SClipTerm(nn.Module):
    """``losses.s_clip.s_clip``, the sum over both sides; 0 without pairs."""

    def __init__(self, temperature: float, regularisation: float) -> None:
        super().__init__()
        self.temperature, self.regularisation = temperature, regularisation

    def forward(self, left: StepSide, right: StepSide) -> Tensor:
        if not len(left.paired):
            return left.paired.sum()
        return self._of(left, right) + self._of(right, left)

    def _of(self, side: StepSide, other: StepSide) -> Tensor:
        if side.paired_features is None:
            raise ValueError("the s_clip term needs StepSide.paired_features of both sides")
        return s_clip(
            side.embeddings,
            other.paired,
            side.features,
            side.paired_features,
            temperature=self.temperature,
            regularisation=self.regularisation,
        )


class PublishedTerm(nn.Module):
    """A term in the form that was released (``losses.published``), on the released layout: pairs first, then the rest.

    The self-supervised term reads the unpaired rows only, since only these have a second view.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in {"clip", "sdd", "mk_mmd", "self_supervised"}:
            raise ValueError(f"term {name!r} has no published form")
        self.name = name

    def forward(self, left: StepSide, right: StepSide) -> Tensor:
        if self.name == "self_supervised":
            if left.second_view is None or right.second_view is None:
                raise ValueError("the self_supervised term needs StepSide.second_view of both sides")
            return published.nt_xent(left.embeddings, left.second_view) + published.nt_xent(
                right.embeddings, right.second_view
            )
        x, y = (torch.cat([side.paired, side.embeddings]) for side in (left, right))
        if self.name == "sdd":
            return published.sdd(x, y)
        if self.name == "mk_mmd":
            return published.mmd(x, y)  # one kernel: what the released training uses
        return published.clip(x, y, pairs=len(left.paired)) if len(left.paired) else left.paired.sum()


def mean_size(over_x: Tensor, over_y: Tensor) -> Tensor:
    """Scalar without gradient: the mean absolute log density ratio over the points of both sets."""
    return torch.cat([over_x.detach(), over_y.detach()]).abs().mean()
