"""From a recipe to the parts of a training: here its sections become plain values (and in objective.py)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from setclip_cli.encoders import UnitRows
from setclip_cli.errors import UsageError
from setclip_cli.methods.graph_teacher import pair_balance, teacher_coordinates
from setclip_cli.training.batches import Batches
from setclip_cli.training.distributed import Group
from setclip_cli.training.kernel_choice import KernelChoice
from setclip_cli.training.objective import build_objective
from setclip_cli.training.schedules import rate_at
from setclip_cli.training.tower import TrainingTower
from setclip_cli.training.training import Training
from setclip_cli.training.updater import Updater

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.encoders import Encoder
    from setclip_cli.recipe.recipe import Recipe
    from setclip_cli.training.tower import InitialWeights, Pool


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
        pairs: (b, 2) int64: the left and right rows of the known pairs; b may be 0.
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
    kernels = KernelChoice(train.kernels, device, group)
    return Training(towers, objective, batches, updater, group, kernels=kernels, coordinates=coordinates)


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
