"""What `align` writes beside a RUN so that its cosines become probabilities: known pairs that its encoders did not see.

A method in closed form is fitted again without some of the known pairs, in turn. A trained one cannot be trained five
times, so for it the pairs of the split that the recipe left over are taken, or those of the validation split.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch

from setclip_cli.methods.held_out import FoldFit, held_out
from setclip_cli.training.fit import fit_method, is_trained
from setclip_cli.training.known_pairs import pair_rows, pairs_in_items
from setclip_cli.trust.answers import unit_rows
from setclip_cli.trust.calibration import LEAST_ITEMS, HeldOut, Parts, calibrate
from setclip_cli.trust.saved import Calibration, Source, saved_direction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.methods.held_out import Encoders
    from setclip_cli.recipe.recipe import Recipe
    from setclip_cli.training.fit import Fitted
    from setclip_cli.training.inputs import SideInput
    from setclip_cli.training.known_pairs import KnownPairs

POOL = 3_000  # rows of each side among which held-out partners are looked for


def calibrate_run(
    recipe: Recipe,
    dataset: Dataset,
    fitted: Fitted,
    sides: Sequence[SideInput],
    known: KnownPairs,
    rows: Tensor,
) -> Calibration | None:
    """The calibration of what was fitted, for a model.safetensors that is still to be named; None if nothing allows it.

    Args:
        known: The pairs that were used.
        rows: (b, 2) int64, the same as rows of both sides.
    """
    if not is_trained(recipe, rows):
        left, right = (side.features for side in sides)
        return calibrated_by_folds(recipe, fitted, left, right, rows, torch.tensor(known.items, dtype=torch.int64))
    if not all(recipe.towers[side.modality].frozen for side in sides):
        return None
    left_over = _left_over(recipe, dataset, sides, known, rows)
    if left_over is not None:
        part = among_pools(fitted.encoders, sides[0].features, sides[1].features, *left_over)
        return _calibration(lambda: [part], part.items, recipe, "left-over pairs", recipe.train.split)
    of_validation = _of_validation(recipe, dataset, fitted.encoders, sides)
    if of_validation is not None:
        return _calibration(
            lambda: [of_validation], of_validation.items, recipe, "validation split", recipe.validation.split
        )
    return None


def calibrated_by_folds(
    recipe: Recipe, fitted: Fitted, left: Tensor, right: Tensor, pairs: Tensor, items: Tensor
) -> Calibration | None:
    """The calibration of a method in closed form; None if too few items are known.

    Args:
        left: (n, p) features, right: (m, q), which were fitted with
        pairs: (b, 2) int64, rows of them, and
        items: (b,) int64, the number of each pair's item.
    """
    if len(set(items.tolist())) < LEAST_ITEMS:
        return None
    fits = fitted.folds or _fits(recipe, left, right, pairs, items)
    held = torch.zeros(len(pairs), dtype=torch.bool)
    for fit in fits:
        held |= fit.hidden
    parts = partial(_of_folds, fits, left, right, pairs, items)
    return _calibration(parts, items[held], recipe, "folds", recipe.train.split)


def _calibration(parts: Parts, items: Tensor, recipe: Recipe, source: Source, split: str) -> Calibration | None:
    """None if the held-out pairs are of too few ``items``."""
    count = len(set(items.tolist()))
    if count < LEAST_ITEMS:
        return None
    left, right = calibrate(parts, seed=recipe.seed)
    return Calibration(
        model_sha256="",
        source=source,
        split=split,
        held_out_items=count,
        held_out_pairs=len(items),
        left_to_right=saved_direction(left),
        right_to_left=saved_direction(right),
    )


def _fits(recipe: Recipe, left: Tensor, right: Tensor, pairs: Tensor, items: Tensor) -> list[FoldFit]:
    """The method fitted without each fold in turn."""
    fits = []
    for fold in held_out(pairs, recipe.seed, items, least=LEAST_ITEMS):
        fitted = fit_method(recipe, left, right, fold.known, items[~fold.hidden])
        fits.append(FoldFit(fold.hidden, fold.known, fitted.encoders))
    return fits


def _of_folds(fits: Sequence[FoldFit], left: Tensor, right: Tensor, pairs: Tensor, items: Tensor) -> Iterator[HeldOut]:
    for fit in fits:
        yield among_pools(fit.encoders, left, right, pairs[fit.hidden], items[fit.hidden])


@torch.no_grad()
def among_pools(encoders: Encoders, left: Tensor, right: Tensor, pairs: Tensor, items: Tensor) -> HeldOut:
    """The held-out pairs among all rows, or an even part of them: the gallery that a user will ask.

    Args:
        left: (n, p) features, right: (m, q).
        pairs: (b, 2) held-out pairs; items: (b,) their items.
    """
    embeddings, places = [], []
    for encoder, features, own in zip(encoders, (left, right), pairs.T, strict=True):
        kept = torch.zeros(len(features), dtype=torch.bool)
        kept[:: math.ceil(len(features) / POOL)] = True
        kept[own] = True
        embeddings.append(unit_rows(encoder(features[kept])))
        places.append((kept.cumsum(0) - 1)[own])
    return HeldOut(embeddings[0], embeddings[1], torch.stack(places, 1), items)


def _left_over(
    recipe: Recipe, dataset: Dataset, sides: Sequence[SideInput], known: KnownPairs, rows: Tensor
) -> tuple[Tensor, Tensor] | None:
    """(pairs as rows, items) of the split that the recipe did not use; None if there are too few."""
    there = pairs_in_items(dataset, recipe.train.split, recipe)
    if len(there.pairs) == len(known.pairs):
        return None
    pairs = pair_rows(there.pairs, sides[0].ids, sides[1].ids, split=recipe.train.split)
    free = ~(torch.isin(pairs[:, 0], rows[:, 0]) | torch.isin(pairs[:, 1], rows[:, 1]))
    items = torch.tensor(there.items, dtype=torch.int64)[free]
    return (pairs[free], items) if len(set(items.tolist())) >= LEAST_ITEMS else None


@torch.no_grad()
def _of_validation(recipe: Recipe, dataset: Dataset, encoders: Encoders, sides: Sequence[SideInput]) -> HeldOut | None:
    """The pairs of the validation split among its rows; None if it is not read, or is that of the training."""
    left, right = (side.validation for side in sides)
    split = recipe.validation.split
    if left is None or right is None or split == recipe.train.split:
        return None
    there = pairs_in_items(dataset, split, recipe)
    if len(set(there.items)) < LEAST_ITEMS:
        return None
    pairs = pair_rows(there.pairs, left.ids, right.ids, split=split)
    items = torch.tensor(there.items, dtype=torch.int64)
    return among_pools(encoders, left.features, right.features, pairs, items)
