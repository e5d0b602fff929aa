"""From a recipe to the parts of a training: here its sections become plain values (and in objective.py)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from setclip_cli.methods.graph_teacher import pair_balance, teacher_coordinates
from setclip_cli.training.batches import Batches
from setclip_cli.training.distributed import Group
from setclip_cli.training.objective import build_objective
from setclip_cli.training.schedules import rate_at
from setclip_cli.training.tower import TrainingTower
from setclip_cli.training.training import Training
from setclip_cli.training.updater import Updater

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.recipe.recipe import Recipe
    from setclip_cli.training.tower import InitialWeights, Pool


def build_tower(recipe: Recipe, side: str, pool: Pool) -> TrainingTower:
    """The tower of a side, "left" or "right", with heads drawn from the recipe's seed."""
    return TrainingTower(
        side,
        pool,
        head=recipe.projection.kind,
        dim=recipe.projection.dim,
        axes=recipe.projection.pca,
        members=recipe.ensemble,
        seed=recipe.seed,
        noise=recipe.objective.self_supervised.noise,
        chunk=recipe.train.chunk,
        tf32=recipe.train.tf32,
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
        pairs: (b, 2) int64: the left and right rows of the known pairs; b may be 0.
        group: The processes that train together; None for this one alone.
        initial: Weights of another RUN to start from.

    Raises:
        SetClipError: the initial weights do not fit the recipe.
    """
    group = group or Group()
    train, optim = recipe.train, recipe.optim
    towers = (build_tower(recipe, "left", left), build_tower(recipe, "right", right))
    for tower, weights in zip(towers, initial or (), strict=False):
        tower.start_from(weights)
    device = left.features.device
    objective = build_objective(recipe.objective, pairs=len(pairs)).to(device)
    coordinates = None
    if len(pairs) and ("teacher" in objective.terms or train.balance):
        neighbours = recipe.objective.teacher.neighbours
        coordinates = teacher_coordinates(
            towers[0].features, towers[1].features, pairs, neighbours=None if neighbours == "auto" else neighbours
        )
    batches = Batches(
        towers,
        pairs,
        group,
        seed=recipe.seed,
        steps=train.steps,
        members=recipe.ensemble,
        rows=train.batch,
        paired_rows=train.pairs_per_batch,
        second_views="self_supervised" in objective.terms,
        row_weights=(pair_balance(coordinates[0]), pair_balance(coordinates[1]))
        if coordinates and train.balance
        else None,
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
    return Training(towers, objective, batches, updater, group, coordinates=coordinates)
