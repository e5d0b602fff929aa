"""STUDY.toml: a base recipe, axes and variants, and the cells that they make."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files.shipped import find
from setclip_cli.recipe.recipe import RecipeError, load_recipe

if TYPE_CHECKING:
    from setclip_cli.recipe.recipe import Recipe

Value = str | int | float | bool


class Variant(BaseModel):
    """A named change of the base recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    set: dict[str, Value] = {}

    @field_validator("set", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        return _flat(value) if isinstance(value, dict) else value


class Study(BaseModel):
    """STUDY.toml.

    Attributes:
        recipe: The base: a path relative to the study's file, or the name of a recipe that comes with the package.
        axes: Recipe key -> its values; every combination is a cell.
        variants: Changes that stand for themselves, each combined with the axes.
        seeds: How many seeds, 0 and up, each cell is run with.
        metrics: What the table shows; the first one is plotted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    title: str = "Study"
    recipe: str
    axes: dict[str, Annotated[list[Value], Field(min_length=1)]] = {}
    variants: list[Variant] = []
    seeds: PositiveInt = 3
    split: str = "test"
    relevance: Literal["label", "group", "pairs"] = "label"
    metrics: Annotated[list[str], Field(min_length=1)]

    @field_validator("axes", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        return _flat(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _something_to_compare(self) -> Study:
        if not self.axes and not self.variants:
            raise ValueError("needs axes or variants")
        if "seed" in self.axes:
            raise ValueError("axes.seed: give seeds = COUNT instead")
        return self


@dataclass(frozen=True)
class Cell:
    """One RUN to be: a combination and a seed.

    Attributes:
        column: What the table calls the combination.
        settings: Recipe key -> value, of axes and variant together.
        recipe: Resolved; None where the combination contradicts itself.
        name: Of its folder: readable, and different for another recipe.
        impossible: Why the combination cannot be run, or an empty string.
    """

    column: str
    settings: dict[str, Value]
    seed: int
    recipe: Recipe | None
    name: str
    impossible: str = ""


def load_study(path: Path) -> Study:
    """Reads STUDY.toml.

    Raises:
        SetClipError: exit code 2; no such file, no TOML, or keys that are not a study's.
    """
    try:
        return Study.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetClipError(
            f"{path}: is no valid TOML ({error})", fix="correct the file at that place", exit_code=ExitCode.USAGE
        ) from error
    except ValidationError as error:
        lines = [f"  - {'.'.join(map(str, one['loc'])) or 'study'}: {one['msg']}" for one in error.errors()]
        raise SetClipError(
            "\n".join([f"{path}: {len(lines)} problems in the study", *lines]),
            fix="compare it with one that comes with setclip: `setclip studies show pairs`",
            exit_code=ExitCode.USAGE,
        ) from error


def plan(study: Study, path: Path) -> list[Cell]:
    """Every cell, in the order of the table, with its recipe resolved; nothing is trained.

    Raises:
        SetClipError: exit code 2; an axis or variant is wrong by itself, such as a key that no recipe has. Settings
            that are fine alone and contradict each other make a cell impossible instead.
    """
    beside = (path.parent / study.recipe).resolve()
    base = beside if beside.is_file() else find("recipes", study.recipe)
    for key, values in study.axes.items():
        for value in values:
            _check_alone(base, {key: value}, f"axes.{key}")
    for variant in study.variants:
        _check_alone(base, variant.set, f"variants {variant.name!r}")
    cells = []
    keys = list(study.axes)
    for variant in study.variants or [Variant(name="base")]:
        for combination in itertools.product(*study.axes.values()):
            settings = {**variant.set, **dict(zip(keys, combination, strict=True))}
            parts = [variant.name] if study.variants else []
            parts += [
                f"{value}" if key == "method" else f"{key}={value}"
                for key, value in zip(keys, combination, strict=True)
            ]
            column = ", ".join(parts)
            cells += [_cell(base, column, settings, seed) for seed in range(study.seeds)]
    repeated = {cell.column for cell in cells if sum(other.column == cell.column for other in cells) > study.seeds}
    if repeated:
        raise SetClipError(
            f"{path}: {sorted(repeated)[0]!r} is in the study more than once",
            fix="give each value and each variant once",
            exit_code=ExitCode.USAGE,
        )
    return cells


def _cell(base: Path, column: str, settings: dict[str, Value], seed: int) -> Cell:
    overrides = [*_overrides(settings), f"seed={seed}"]
    words = [str(value) if key == "method" else f"{_short(key)}-{value}" for key, value in settings.items()]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(words)).strip("-") or "base"
    try:
        recipe = load_recipe(base, overrides)
    except RecipeError as error:
        return Cell(column, settings, seed, None, f"{slug}_seed-{seed}", "; ".join(error.contradictions))
    digest = hashlib.sha256(recipe.to_toml().encode()).hexdigest()[:8]
    return Cell(column, settings, seed, recipe, f"{slug[:80]}_seed-{seed}_{digest}")


def _short(key: str) -> str:
    """``objective.sdd.weight`` -> ``sdd.weight``: enough to know a folder by."""
    return ".".join(key.split(".")[-2:])


def _check_alone(base: Path, settings: dict[str, Value], where: str) -> None:
    """Raises SetClipError when settings are wrong by themselves; a contradiction with the base is not, yet."""
    try:
        load_recipe(base, _overrides(settings))
    except SetClipError as error:
        if not isinstance(error, RecipeError) or error.mistakes:
            raise SetClipError(
                f"{where}: {error.problem}", fix="correct the key or value in the study", exit_code=ExitCode.USAGE
            ) from error


def _overrides(settings: dict[str, Value]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; lists and values are leaves."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
