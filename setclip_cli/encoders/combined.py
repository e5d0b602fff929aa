"""Encoders made of other encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setclip_cli.encoders.base import Encoder, encoder_from_description

if TYPE_CHECKING:
    from collections.abc import Sequence


class Concatenated(Encoder):
    """Several encoders side by side; the cosine of two rows is the weighted mean of the encoders' cosines."""

    kind = "concatenated"

    def __init__(self, encoders: Sequence[Encoder], weights: Sequence[float] | None = None) -> None:
        """``weights`` are positive shares of the cosine, equal by default."""
        super().__init__()
        if not encoders:
            raise ValueError("Concatenated needs at least one encoder")
        self.encoders = nn.ModuleList(encoders)
        shares = torch.ones(len(encoders)) if weights is None else torch.tensor(weights, dtype=torch.float32)
        if shares.shape != (len(encoders),) or not bool((shares > 0).all()):
            raise ValueError(
                f"Concatenated needs a positive weight for each of {len(encoders)} encoders, got {weights}"
            )
        self.shares: Tensor
        self.register_buffer("shares", shares / shares.sum())
        self.dim = sum(encoder.dim for encoder in encoders)

    def forward(self, features: Tensor) -> Tensor:
        parts = [encoder(features) * share.sqrt() for encoder, share in zip(self.encoders, self.shares, strict=True)]
        return F.normalize(torch.cat(parts, dim=1), dim=1)

    def describe(self) -> dict[str, Any]:
        encoders = [encoder.describe() for encoder in self.encoders if isinstance(encoder, Encoder)]
        return {"kind": self.kind, "encoders": encoders}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Concatenated:
        return cls([encoder_from_description(encoder) for encoder in description["encoders"]])


def side_by_side(parts: Sequence[tuple[Encoder, Encoder]], weights: Sequence[float]) -> tuple[Encoder, Encoder]:
    """For each side the encoders of all parts in one; the cosine of two rows is the weighted mean of the parts'."""
    if len(parts) == 1:
        return parts[0]
    left, right = (Concatenated(encoders, weights).eval() for encoders in zip(*parts, strict=True))
    return left, right


class MeanShift(Encoder):
    """Draws the embeddings u of an encoder to where those of both sides are dense: unit(u + share · m).

    m <- unit(½ Σ_i w_i x_i + ½ Σ_j v_j y_j), ``steps`` times, starting at u; w the softmax of -‖m - x_i‖²/bandwidth
    over known embeddings of the left side, v that of -‖m - y_j‖²/bandwidth over those of the right.

    Each step climbs log p_X + log p_Y, the kernel densities that the density loss makes equal on both sides. So items
    of one kind come together, whichever side they are from.

    Source: mean shift, Cheng 1995 (IEEE TPAMI 17, 790-799), here of two densities with equal weight, on unit vectors,
        where it is the retrieval of a modern Hopfield network, Ramsauer et al. 2020, arXiv:2008.02217.
    """

    kind = "mean-shift"
    keeps = ("left", "right")
    _MOST_STEPS = 100  # it has converged long before

    def __init__(
        self, encoder: Encoder, left: Tensor, right: Tensor, *, share: float, bandwidth: float = 0.1, steps: int = 3
    ) -> None:
        """``left`` is (n, d), ``right`` (m, d): unit embeddings of rows of either side, the same in both encoders."""
        super().__init__()
        if not (share > 0 and bandwidth > 0 and 1 <= steps <= self._MOST_STEPS):
            raise ValueError(
                f"MeanShift needs a share and a bandwidth above 0 and 1 to {self._MOST_STEPS} steps, "
                f"got {share}, {bandwidth} and {steps}"
            )
        self.encoder = encoder
        self.left: Tensor
        self.right: Tensor
        self.register_buffer("left", left.float().clone())
        self.register_buffer("right", right.float().clone())
        self.share, self.bandwidth, self.steps = share, bandwidth, steps
        self.dim = encoder.dim

    def forward(self, features: Tensor) -> Tensor:
        own: Tensor = self.encoder(features)
        shifted = own
        for _ in range(self.steps):
            shifted = F.normalize(self._mean(shifted, self.left) + self._mean(shifted, self.right), dim=1)
        return F.normalize(own + self.share * shifted, dim=1)

    def _mean(self, at: Tensor, known: Tensor) -> Tensor:
        """The known embeddings' mean, weighted by the kernel: ‖x - y‖² = 2 - 2 cos, and the 2 cancels."""
        return torch.softmax(at @ known.T * (2 / self.bandwidth), dim=1) @ known

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "encoder": self.encoder.describe(),
            "dim": self.dim,
            "left": len(self.left),
            "right": len(self.right),
            "share": self.share,
            "bandwidth": self.bandwidth,
            "steps": self.steps,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> MeanShift:
        return cls(
            encoder_from_description(description["encoder"]),
            torch.zeros(description["left"], description["dim"]),
            torch.zeros(description["right"], description["dim"]),
            share=description["share"],
            bandwidth=description["bandwidth"],
            steps=description["steps"],
        )
