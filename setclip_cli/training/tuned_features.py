"""Features of the pools after training: what extra encoders of tuned towers are fitted to.

The heads of a tuned tower map features that its backbone gives after training, so whatever is combined with them has to
be fitted to the same features. The rows of a tuned side are read and embedded once more, by the weights that the RUN
keeps: averages in place of weights, in float32, as `embed` does it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from setclip_cli.console import progress
from setclip_cli.errors import SetClipError
from setclip_cli.methods.extra_encoders import POOL_ROWS
from setclip_cli.sampling import generator
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from setclip_cli.training.distributed import Group
    from setclip_cli.training.tower import TrainingTower, TunedBackbone
    from setclip_cli.training.training import Training

ROWS_PER_CALL = 512  # rows read and embedded between two moves of the progress bar


@dataclass(frozen=True)
class PoolsAfterTraining:
    """What extra encoders are fitted to, on the CPU.

    Attributes:
        inputs: (n, q) and (m, r) what the heads read of rows of either pool.
        features: (n, p) and (m, s) of the same rows by the backbones as they are after training.
        found: The same by the backbones as they were found.
        pairs: (b, 2) int64, rows of the known pairs in all of these.
        tuned: Whether training changed a backbone, so that ``features`` and ``found`` differ.
    """

    inputs: tuple[Tensor, Tensor]
    features: tuple[Tensor, Tensor]
    found: tuple[Tensor, Tensor]
    pairs: Tensor
    tuned: bool


def pools_after_training(training: Training, pairs: Tensor, *, seed: int) -> PoolsAfterTraining:
    """Features of both pools after training: of a frozen side all rows; of a tuned side those of the pairs and others.

    Of a tuned side ``POOL_ROWS`` others are taken, since extra encoders use no more and each row costs a pass of the
    backbone. Every process has to call it: each embeds its share of the rows.

    Args:
        pairs: (b, 2) int64, rows of the known pairs.
        seed: Decides which rows stand for a larger pool.

    Raises:
        SetClipError: the tuned backbone gives features that are zero or not finite.
    """
    pairs = pairs.cpu().clone()
    inputs: list[Tensor] = []
    features: list[Tensor] = []
    found: list[Tensor] = []
    for column, (tower, weights) in enumerate(zip(training.towers, training.tuned(), strict=True)):
        before = tower.pool.features
        if tower.pool.tuned is None:
            inputs.append(tower.inputs.cpu())
            features.append(before.cpu())
            found.append(before.cpu())
            continue
        rows = _chosen(len(tower.inputs), pairs[:, column], seed, tower.side)
        embedded = _embedded(tower, tower.pool.tuned, weights, tower.row_numbers(rows), training.group)
        with torch.no_grad():
            inputs.append(tower.transform(embedded).cpu())
        features.append(embedded.cpu())
        found.append(before.cpu()[rows])
        pairs[:, column] = torch.searchsorted(rows, pairs[:, column].contiguous())
    return PoolsAfterTraining(
        (inputs[0], inputs[1]),
        (features[0], features[1]),
        (found[0], found[1]),
        pairs,
        tuned=any(tower.pool.tuned is not None for tower in training.towers),
    )


def _chosen(count: int, known: Tensor, seed: int, side: str) -> Tensor:
    """The known rows and ``POOL_ROWS`` of all ``count`` rows, in ascending order."""
    drawn = torch.randperm(count, generator=generator(seed, "tuned pool", side))[:POOL_ROWS]
    chosen: Tensor = torch.unique(torch.cat([known, drawn]))
    return chosen


def _embedded(
    tower: TrainingTower, tuned: TunedBackbone, weights: dict[str, Tensor], rows: Tensor, group: Group
) -> Tensor:
    """(n, p) features of these rows on the device of the training, by these weights of the tuned backbone."""
    backbone, own = tuned.backbone, rows[group.share(len(rows))].tolist()
    features = torch.zeros(len(own), backbone.dim)
    starts = range(0, len(own), ROWS_PER_CALL)
    with _as_kept(tower, tuned, weights):
        for start in progress(starts, label=f"{backbone.modality} features after training", unit="batch"):
            part = slice(start, start + ROWS_PER_CALL)
            features[part] = backbone.encode(tuned.raw_rows.take(own[part])).features
    gathered = group.gather(features.to(tower.inputs.device), len(rows))
    if bad := unusable_rows(gathered.cpu().numpy()):
        raise SetClipError(
            f"towers.{backbone.modality}: after training, its backbone gives {len(bad)} of {len(rows)} rows a feature "
            f"vector that {next(iter(bad.values()))}",
            fix="lower optim.backbone_lr, or train fewer steps",
        )
    return gathered


@contextmanager
def _as_kept(tower: TrainingTower, tuned: TunedBackbone, weights: dict[str, Tensor]) -> Iterator[None]:
    """The backbone as the RUN keeps it: with these weights, in float32. Afterwards it is as it was."""
    own, precision = tower.tuned_parameters(), tuned.backbone.precision
    before = {name: value.detach().clone() for name, value in own.items()}
    try:
        _copy(weights, own)
        tuned.backbone.precision = torch.float32
        yield
    finally:
        _copy(before, own)
        tuned.backbone.precision = precision


@torch.no_grad()
def _copy(values: dict[str, Tensor], parameters: dict[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
