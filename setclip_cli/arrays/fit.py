"""`setclip.fit`: align two matrices of features in memory, without a DATASET, a backbone or a RUN."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from setclip_cli.arrays.aligned import Aligned
from setclip_cli.arrays.errors import InputError
from setclip_cli.arrays.matrix import Matrix
from setclip_cli.arrays.names import require_names
from setclip_cli.arrays.pairs import rows_of_pairs
from setclip_cli.arrays.sides import Origin
from setclip_cli.encoders.graph import kept_graphs
from setclip_cli.errors import argument, nearest
from setclip_cli.methods.auto import choose
from setclip_cli.methods.pairs_needed import require_pairs
from setclip_cli.recipe.presets import GOAL_METHODS, Method
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.recipe.sections import Tower
from setclip_cli.training.checks import require_pools
from setclip_cli.training.fit import fit_method, without_start
from setclip_cli.training.known_pairs import seeded_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from setclip_cli.arrays.matrix import MatrixLike
    from setclip_cli.arrays.pairs import PairsLike


_ARGUMENTS = {"method", "goal", "seed", "towers", "pairs"}  # what a dict of settings must not hold


@kept_graphs()
def fit(
    x: MatrixLike,
    y: MatrixLike,
    pairs: PairsLike = (),
    *,
    method: Method = "auto",
    goal: Literal["auto", "partner", "kind"] = "auto",
    seed: int = 0,
    recipe: Recipe | Mapping[str, Any] | Path | str | None = None,
    names: tuple[str, str] = ("left", "right"),
) -> Aligned:
    """Aligns two unpaired sets of features in memory.

    A float32 array is used where it is, a memory map too; other types are turned into float32 block by block. Nothing
    is written into the arrays.

    Args:
        x: (n, p) features of the left side: a numpy array or memory map, a torch tensor, a column of vectors of Arrow,
            pandas or polars, a table of numbers, or nested lists.
        y: (m, q) features of the right side. Row i of y has nothing to do with row i of x.
        pairs: (b, 2) integers: a row of x and the row of y that belongs to it; b may be 0.
        method: A method of the recipe; ``auto`` takes the one that is best for the goal.
        goal: What method ``auto`` aligns for: ``partner``, the one row that belongs to another, ``kind``, all rows of
            its kind; ``auto`` is partner if there are pairs.
        seed: Decides everything random.
        recipe: Where all other settings come from (default: those of the method): a recipe, its file, its name, or
            its tables as a dict, such as ``{"train": {"steps": 500}}``. Its own method and seed do not count.
        names: What the two sides are called: in metric keys, and as modalities of the RUN that `save` writes.

    Raises:
        SetClipError: a matrix that is not finite or not two-dimensional, or whose rows are all equal; pairs that name
            rows which are not there; a method that needs pairs where there are none.
    """
    require_names(names)
    _require_choice("method", method, get_args(Method))
    _require_choice("goal", goal, ("auto", "partner", "kind"))
    if not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"{argument('seed')}: is {seed!r}", fix="give a whole number from 0")
    left, right = Matrix(x, "x").whole(), Matrix(y, "y").whole()
    known = rows_of_pairs(pairs, len(left), len(right))
    base = _with_vector_towers(_recipe(recipe), names)
    ends = [(row, other) for row, other in known.tolist()]
    require_pairs(method if goal == "auto" else GOAL_METHODS[goal], ends, joint=base.joint)
    pairs_used: Literal["all", 0] = "all" if len(known) else 0
    asked = base.with_settings(method=method, goal=goal, seed=int(seed), pairs=pairs_used)
    order, items = _order_of_align(known, asked)
    known, ends = known[order], [ends[place] for place in order]
    require_pools(asked, {"x": left, "y": right})
    choice = choose(asked, ends, items) if asked.method == "auto" else None
    fitted = fit_method(choice.recipe if choice else asked, left, right, known, torch.tensor(items, dtype=torch.int64))
    origin = Origin(
        asked,
        choice,
        fitted.initial,
        rows=(len(left), len(right)),
        pairs=len(known),
        items=len(set(items)) if len(set(items)) < len(items) else None,
        sha256=_sha256(left, right, known),
    )
    widths = left.shape[1], right.shape[1]
    return Aligned(fitted.method, fitted.encoders, widths, fitted.findings, fitted.warnings, names, origin)


def _require_choice(name: str, given: object, choices: Sequence[str]) -> None:
    if given not in choices:
        raise InputError(
            f"{argument(name)}: {given!r} is not one of its choices{nearest(str(given), choices)}",
            fix=f"choose one of: {', '.join(choices)}",
        )


def _recipe(given: Recipe | Mapping[str, Any] | Path | str | None) -> Recipe:
    if isinstance(given, Recipe):
        return given
    if isinstance(given, str | Path):
        return load_recipe(given)
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"{argument('recipe')}: is a {type(given).__name__}", fix="give a Recipe, its name, or a dict")
    for name in {*(given or {})} & _ARGUMENTS:
        raise InputError(f"{argument('recipe')}: holds {name}", fix=f"give {name} to the function itself")
    towers = {"left": {"backbone": "vector"}, "right": {"backbone": "vector"}}
    return Recipe.model_validate({"towers": towers} | dict(given or {}))


def _with_vector_towers(base: Recipe, names: tuple[str, str]) -> Recipe:
    """The recipe of the RUN: its features are the vectors that were given, whatever its backbones were."""
    towers = {
        name: Tower(backbone="vector", joint=base.towers[modality].joint).model_dump()
        for name, modality in zip(names, base.modalities(), strict=True)
    }
    return without_start(base).with_settings(towers=towers)


def _order_of_align(known: Tensor, recipe: Recipe) -> tuple[list[int], list[int]]:
    """The pairs in the order in which `align` has those of a DATASET, so that both fit the same; and their items."""
    rows = known[:, 0].tolist()
    numbers: dict[int, int] = {}
    items = [numbers.setdefault(row, len(numbers)) for row in rows] if recipe.pairs_unit != "row" else range(len(rows))
    return seeded_order(items, len(set(items)), recipe.seed)


def _sha256(*arrays: Tensor) -> str:
    """Of what was fitted; it stands for the hash of a DATASET."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{tuple(array.shape)}".encode())
        digest.update(array.numpy().data if array.numel() else b"")
    return digest.hexdigest()
