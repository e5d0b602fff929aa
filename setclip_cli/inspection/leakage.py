"""Near copies across splits: rows of a test split that training has nearly seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.console import progress

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.pools import PoolSide, Towers

BLOCK = 1 << 24  # cosines held at a time: 64 MiB


@dataclass(frozen=True)
class NearCopy:
    """A row of another split and the training row that is nearest to it."""

    modality: Modality
    split: str
    id: str
    training_id: str
    cosine: float


@dataclass(frozen=True)
class SplitCopies:
    """Of one modality and one split.

    Attributes:
        rows: Of the split.
        copies: The rows that have a near copy among the training rows, the nearest first.
    """

    modality: Modality
    split: str
    rows: int
    copies: list[NearCopy]


def near_copies(towers: Towers, training: tuple[PoolSide, PoolSide], split: str, *, least: float) -> list[SplitCopies]:
    """For each modality and each other split: the rows that have a near copy in the training split.

    Args:
        training: Both sides of the training split.
        split: Its name.
        least: Smallest cosine of features, with the mean of the training rows subtracted, that makes a near copy.
    """
    found = []
    for side in training:
        others = [name for name in towers.dataset.splits(side.modality) if name != split]
        for name in others:
            rows = towers.side(side.modality, name)
            nearest, cosines = nearest_training_rows(rows.features, side.features, label=f"{side.modality} {name}")
            order = torch.argsort(cosines, descending=True, stable=True)
            copies = [
                NearCopy(side.modality, name, rows.ids[row], side.ids[int(nearest[row])], float(cosines[row]))
                for row in order.tolist()
                if cosines[row] >= least
            ]
            found.append(SplitCopies(side.modality, name, len(rows.ids), copies))
    return found


def nearest_training_rows(rows: Tensor, training: Tensor, *, label: str) -> tuple[Tensor, Tensor]:
    """For each row the place of the nearest training row, and their cosine after the training mean is subtracted.

    The features of one backbone all point in about one direction; without their mean they tell more.

    Args:
        rows: (n, p) float32.
        training: (m, p) float32, m > 0.
        label: Of the progress bar.

    Returns:
        (n,) int64 and (n,) float32.
    """
    centre = training.mean(0)
    seen = F.normalize(training - centre, dim=1)
    size = max(1, BLOCK // len(seen))
    blocks = [
        (F.normalize(block - centre, dim=1) @ seen.T).max(1)
        for block in progress(torch.split(rows, size), label=f"near copies of {label}", unit="block")
    ]
    return torch.cat([block.indices for block in blocks]), torch.cat([block.values for block in blocks])
