"""Baselines: other methods, aligned with the recipe, features, pairs and seeds of the first RUN."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.model_folders import averaged_names, open_model_folders
from setclip_cli.files.write_errors import WriteError
from setclip_cli.recipe.presets import TRAINING_FREE_METHODS
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.run.config import RECIPE_NAME, load_config
from setclip_cli.training.own_run import align_own

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.evaluation.model_folders import ModelFolder


def align_baselines(
    models: Sequence[ModelFolder], dataset: Dataset, out: Path, methods: Sequence[str]
) -> tuple[list[ModelFolder], str]:
    """Aligns each method once for each seed of the first RUN's method, under ``out``.

    A baseline that is finished already is used again, unless its files have changed. A method that is among ``models``
    is not aligned again.

    Returns:
        The baselines, and the reasons why some or all are missing; empty if none is missing.
    """
    missing = [method for method in methods if method not in {model.method for model in models}]
    if not missing:
        return [], "" if methods else "you asked for none"
    first = models[0]
    if first.kind != "run":
        return [], f"{first.name} holds embeddings only, so there is no recipe to align them with"
    config = load_config(first.path)
    if not config.pairs:
        return [], f"{first.name} was aligned without pairs, and baselines learn from pairs only"
    if config.dataset_sha256 != dataset.identity():
        return [], f"{first.name} was aligned on another dataset, and the pairs of that dataset are not known here"
    names = averaged_names(models)
    peers = [model for model in models if names[model.name] == names[first.name]]
    aligned: list[ModelFolder] = []
    reasons: list[str] = []
    for method in missing:
        try:
            runs = [_align_like(peer, method, dataset, out) for peer in peers]
        except WriteError:
            raise  # the report cannot be written either
        except SetClipError as error:
            reasons.append(f"{method} could not be aligned: {' '.join(error.problem.split())}")
        else:
            aligned += [replace(open_model_folders([run])[0], baseline=True) for run in runs]
    return aligned, "; ".join(reasons)


def _align_like(peer: ModelFolder, method: str, dataset: Dataset, out: Path) -> Path:
    """Aligns ``method`` with the recipe and seed of ``peer``; the folder's name depends on the recipe."""
    recipe = load_recipe(peer.path / RECIPE_NAME)
    if recipe.joint and method in TRAINING_FREE_METHODS:  # it aligns the same features as those of strangers
        towers = {name: tower.model_dump() | {"joint": False} for name, tower in recipe.towers.items()}
        recipe = recipe.with_settings(method=method, towers=towers)
    else:
        # Its axes too, where they are the preset of its method: a baseline of fewer would be a weak one.
        # Its nested widths not: a training-free method has no heads, and others are compared at full width.
        projection = recipe.projection.model_dump(exclude={"nested"})
        recipe = recipe.with_settings(method=method, projection=projection)
    recipe_hash = hashlib.sha256(recipe.to_toml().encode()).hexdigest()[:8]
    run = out / recipe_hash / f"{method}-{peer.seed}"
    align_own(recipe, dataset, run)
    return run
