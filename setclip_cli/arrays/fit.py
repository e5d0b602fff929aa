"""`setclip.fit`: align two matrices of features in memory, without a DATASET, a backbone or a RUN."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from setclip_cli.arrays.aligned import Aligned
from setclip_cli.arrays.matrix import Matrix
from setclip_cli.arrays.pairs import rows_of_pairs
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.recipe.sections import Tower
from setclip_cli.training.fit import fit as fit_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from setclip_cli.arrays.matrix import MatrixLike
    from setclip_cli.arrays.pairs import PairsLike
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.recipe.presets import Method

# A recipe names two towers; features that are given as arrays need no backbone, so these are never loaded.
_TOWERS: dict[Modality, Tower] = {
    "image": Tower(backbone="timm:array"),
    "caption": Tower(backbone="sentence-transformers:array"),
}


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
        names: What the two sides are called, in metric keys.

    Raises:
        SetClipError: a matrix that is not finite or not two-dimensional, or whose rows are all equal; pairs that name
            rows which are not there; a method that needs pairs where there are none.
    """
    left, right = Matrix(x, "x").whole(), Matrix(y, "y").whole()
    known = rows_of_pairs(pairs, len(left), len(right))
    asked = _recipe(recipe).with_settings(method=method, goal=goal, seed=seed, **({} if len(known) else {"pairs": 0}))
    fitted = fit_recipe(asked, left, right, known)
    widths = left.shape[1], right.shape[1]
    return Aligned(fitted.method, fitted.encoders, widths, fitted.findings, fitted.warnings, names)


def _recipe(given: Recipe | Mapping[str, Any] | Path | str | None) -> Recipe:
    if isinstance(given, Recipe):
        return given
    if isinstance(given, str | Path):
        return load_recipe(given)
    return Recipe.model_validate({"towers": _TOWERS} | dict(given or {}))
