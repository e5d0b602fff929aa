"""From a recipe to the parts of a training: here its sections become plain values (and in objective.py)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from setclip_cli.encoders import UnitRows
from setclip_cli.errors import UsageError
from setclip_cli.methods.graph_teacher import guiding, pair_balance, teacher_coordinates
from setclip_cli.sampling import generator
from setclip_cli.training.batches import Batches
from setclip_cli.training.distributed import Group
from setclip_cli.training.kernel_choice import KernelChoice
from setclip_cli.training.landmarks import NearLandmarks
from setclip_cli.training.objective import build_objective
from setclip_cli.training.schedules import rate_at
from setclip_cli.training.tower import TrainingTower
from setclip_cli.training.training import Training
from setclip_cli.training.updater import Updater

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.encoders import Encoder
    from setclip_cli.recipe.recipe import Recipe
    from setclip_cli.training.batches import RowWeights
    from setclip_cli.training.tower import InitialWeights, Pool
    from setclip_cli.training.training import Coordinates


def build_tower(recipe: Recipe, side: str, pool: Pool, *, start: Encoder | None = None) -> TrainingTower:
    """The tower of a side, "left" or "right", with heads drawn from the recipe's seed."""
    return TrainingTower(
        side,
        pool,
        head=recipe.projection.kind,
        dim=recipe.projection.dim,
        axes=recipe.projection.pca,
        nested=recipe.projection.nested,
        members=recipe.ensemble,
        seed=recipe.seed,
        noise=recipe.objective.self_supervised.noise,
        chunk=recipe.train.chunk,
        tf32=recipe.train.tf32,
        start=start,
    )


def build_training(
    recipe: Recipe,
    left: Pool,
    right: Pool,
    pairs: Tensor,
    *,
    group: Group | None = None,
    initial: tuple[InitialWeights, InitialWeights] | None = None,
) -> Training:
    """A training of which no step is taken yet.

    Args:
        pairs: (b, 2) int64: the known pairs as rows of both sides' features (of a large pool, its landmarks); b may
            be 0.
        group: The processes that train together; None for this one alone.
        initial: Weights of another RUN to start from.

    Raises:
        SetClipError: the initial weights do not fit the recipe, or the features of a joint model have two widths.
    """
    group = group or Group()
    train, optim = recipe.train, recipe.optim
    starts = aligned_starts(left.features, right.features, initial) if recipe.joint else (None, None)
    towers = (
        build_tower(recipe, "left", left, start=starts[0]),
        build_tower(recipe, "right", right, start=starts[1]),
    )
    for tower, weights in zip(towers, initial or (), strict=False):
        if recipe.joint:
            tower.take_tuned(weights.tuned)
        else:
            tower.start_from(weights)
    device = left.features.device
    objective = build_objective(recipe.objective, pairs=len(pairs), nested=recipe.projection.nested).to(device)
    coordinates: tuple[Coordinates, Coordinates] | None = None
    row_weights: tuple[RowWeights, RowWeights] | None = None
    if len(pairs) and ("teacher" in objective.terms or train.balance):
        neighbours = recipe.objective.teacher.neighbours
        most = guiding(max(len(left.features), len(right.features)), len(pairs))
        walked = torch.randperm(len(pairs), generator=generator(recipe.seed, "guiding pairs"))[:most].sort().values
        found = teacher_coordinates(
            towers[0].features,
            towers[1].features,
            pairs if most == len(pairs) else pairs[walked.to(pairs.device)],
            neighbours=None if neighbours == "auto" else neighbours,
        )
        guides = [_Guide(tower, own, balance=train.balance) for tower, own in zip(towers, found, strict=True)]
        coordinates = guides[0].coordinates, guides[1].coordinates
        row_weights = (guides[0].row_weights(), guides[1].row_weights()) if train.balance else None
    batches = Batches(
        towers,
        torch.stack([tower.row_numbers(own) for tower, own in zip(towers, pairs.T, strict=True)], dim=1),
        group,
        seed=recipe.seed,
        steps=train.steps,
        members=recipe.ensemble,
        rows=train.batch,
        paired_rows=train.pairs_per_batch,
        second_views="self_supervised" in objective.terms,
        row_weights=row_weights,
    )
    updater = Updater(
        towers[0].weights() | towers[1].weights(),
        lr=optim.lr,
        weight_decay=optim.weight_decay,
        backbone_lr=optim.backbone_lr,
        backbone_weight_decay=optim.backbone_weight_decay,
        rate=partial(rate_at, steps=train.steps, schedule=optim.schedule, warmup_steps=optim.warmup_steps),
        clip_norm=optim.clip_norm,
        ema=optim.ema,
        scaler=torch.amp.GradScaler(device.type, enabled=train.precision == "float16"),
    )
    kernels = KernelChoice(train.kernels, device, group)
    return Training(towers, objective, batches, updater, group, kernels=kernels, coordinates=coordinates)


class _Guide:
    """What the walks from the known pairs say of the rows of a side."""

    def __init__(self, tower: TrainingTower, coordinates: Tensor, *, balance: bool) -> None:
        self._own = coordinates
        self._weights = pair_balance(coordinates) if balance else None
        large = tower.pool.large is not None
        self._near = NearLandmarks(tower.features, coordinates, self._weights) if large else None

    def coordinates(self, rows: Tensor, features: Tensor) -> Tensor:
        return self._own[rows] if self._near is None else self._near.coordinates(features)

    def row_weights(self) -> RowWeights:
        assert self._weights is not None
        return self._weights if self._near is None else self._near.weights


def aligned_starts(
    left: Tensor, right: Tensor, initial: tuple[InitialWeights, InitialWeights] | None
) -> tuple[Encoder, Encoder]:
    """From the features to embeddings that are aligned already: those of another RUN, else the features themselves.

    Raises:
        SetClipError: the features have two widths, so they are not those of a joint model.
    """
    if initial is not None:
        return initial[0].encoder, initial[1].encoder
    widths = left.shape[1], right.shape[1]
    if widths[0] != widths[1]:
        raise UsageError(
            f"joint = true: the left features have {widths[0]} values and the right {widths[1]}, so they are not those "
            "of one joint model",
            fix="give the features of one joint model, or leave joint out",
        )
    return UnitRows(widths[0]), UnitRows(widths[1])
