"""The runs of a study: every combination of variants and axes, with every seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from setclip_cli.errors import ExitCode, SetClipError, UsageError, translated
from setclip_cli.files.shipped import find
from setclip_cli.recipe.recipe import RecipeError, load_recipe
from setclip_cli.study.study_file import Variant

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.recipe.recipe import Recipe
    from setclip_cli.study.study_file import SettingValue, Study


@dataclass(frozen=True)
class PlannedRun:
    """A combination of settings and a seed, from which a RUN is made.

    Attributes:
        combination: Name of the combination in the table.
        settings: Recipe key -> value, of axes and variant together.
        recipe: The resolved recipe; None if the combination contradicts itself.
        name: Of its folder: readable, and different for another recipe.
        contradiction: Why the combination cannot be run, or an empty string.
    """

    combination: str
    settings: dict[str, SettingValue]
    seed: int
    recipe: Recipe | None
    name: str
    contradiction: str = ""


def plan_runs(study: Study, path: Path) -> list[PlannedRun]:
    """Resolves the recipe of every run, in the order of the table. Nothing is trained.

    Args:
        path: STUDY.toml; its base recipe may be relative to it.

    Raises:
        SetClipError: exit code 2; an axis or variant is wrong by itself, such as a key that no recipe has. Settings
            that are fine alone and contradict each other are not an error: the run gets a ``contradiction``.
    """
    with translated(f"{path}: recipe", found="cannot be looked at", fix="correct the path", exit_code=ExitCode.USAGE):
        beside = (path.parent / study.recipe).resolve()
        is_there = beside.is_file()
    base = beside if is_there else find("recipes", study.recipe)
    for key, values in study.axes.items():
        for value in values:
            _refuse_mistakes(base, {key: value}, f"axes.{key}")
    for variant in study.variants:
        _refuse_mistakes(base, variant.set, f"variants {variant.name!r}")
    runs: list[PlannedRun] = []
    for variant in study.variants or [Variant(name="base")]:
        for chosen in itertools.product(*study.axes.values()):
            axes = dict(zip(study.axes, chosen, strict=True))
            words = [f"{value}" if key == "method" else f"{key}={value}" for key, value in axes.items()]
            combination = ", ".join(([variant.name] if study.variants else []) + words)
            if any(run.combination == combination for run in runs):
                raise UsageError(
                    f"{path}: {combination!r} is in the study more than once",
                    fix="give each value and each variant once",
                )
            runs += [_plan_run(base, combination, variant.set | axes, seed) for seed in range(study.seeds)]
    return runs


def _refuse_mistakes(base: Path, settings: dict[str, SettingValue], where: str) -> None:
    """Raises SetClipError if settings are wrong by themselves; they may still contradict the base recipe."""
    try:
        load_recipe(base, _overrides(settings))
    except SetClipError as error:
        if not isinstance(error, RecipeError) or error.mistakes:
            raise UsageError(f"{where}: {error.problem}", fix="correct the key or value in the study") from error


def _plan_run(base: Path, combination: str, settings: dict[str, SettingValue], seed: int) -> PlannedRun:
    words = [str(value) if key == "method" else f"{_last_two_parts(key)}-{value}" for key, value in settings.items()]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(words)).strip("-") or "base"
    try:
        recipe = load_recipe(base, [*_overrides(settings), f"seed={seed}"])
    except RecipeError as error:
        contradiction = "; ".join(error.contradictions)
        return PlannedRun(combination, settings, seed, None, f"{readable}_seed-{seed}", contradiction)
    digest = hashlib.sha256(recipe.to_toml().encode()).hexdigest()[:8]
    return PlannedRun(combination, settings, seed, recipe, f"{readable[:80]}_seed-{seed}_{digest}")


def _last_two_parts(key: str) -> str:
    """``objective.sdd.weight`` -> ``sdd.weight``: enough to recognise a folder."""
    return ".".join(key.split(".")[-2:])


def _overrides(settings: dict[str, SettingValue]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
