"""Matryoshka representation learning: a term of the loss at several widths of one embedding."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.losses.terms import StepSide


class NestedTerm(nn.Module):
    """The mean of a term over the widths of the embeddings: L = (1 / |M|) Σ_{m ∈ M} L(unit(u[:m]), unit(v[:m])).

    Every width has the same importance, as in the paper, which takes the sum: c_m = 1. The mean leaves the gradient as
    long as that of one width, so that a bound on its length and the weights of the other terms mean what they did.

    Each width has a copy of the term, with what the term learns (a temperature) or keeps (a queue) for itself.

    Source: Kusupati et al. 2022, arXiv:2205.13147, equation 1; contrastive losses at each width as in its section 3.1.
    """

    def __init__(self, term: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.terms = nn.ModuleList([copy.deepcopy(term) for _ in self.widths])

    def forward(self, left: StepSide, right: StepSide) -> Tensor:
        losses = [
            term(_first_values(left, width), _first_values(right, width))
            for term, width in zip(self.terms, self.widths, strict=True)
        ]
        return torch.stack(losses).mean()


def narrowed(embeddings: Tensor, width: int) -> Tensor:
    """The first ``width`` values of (n, d) unit rows, at length 1; the rows themselves if they have no more."""
    return embeddings if width == embeddings.shape[1] else F.normalize(embeddings[:, :width], dim=1)


def _first_values(side: StepSide, width: int) -> StepSide:
    """The side with narrowed embeddings; its features and coordinates are not embeddings."""
    view = side.second_view
    return replace(
        side,
        embeddings=narrowed(side.embeddings, width),
        paired=narrowed(side.paired, width),
        second_view=None if view is None else narrowed(view, width),
    )
