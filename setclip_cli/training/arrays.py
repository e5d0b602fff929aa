"""`setclip_cli.fit`: align two matrices of features in memory, without a DATASET, a backbone or a RUN."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from setclip_cli.errors import SetClipError, UsageError, argument, first_line
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.recipe.sections import Tower
from setclip_cli.training.fit import fit as fit_recipe
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    import numpy.typing as npt

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.encoders import Encoder
    from setclip_cli.recipe.presets import Method

# A recipe names two towers; features that are given as arrays need no backbone, so these are never loaded.
_WANTED = "give a matrix of finite numbers, one row for each item"
_TOWERS: dict[Modality, Tower] = {
    "image": Tower(backbone="timm:array"),
    "caption": Tower(backbone="sentence-transformers:array"),
}


@dataclass(frozen=True)
class Aligned:
    """Two encoders into one space.

    Attributes:
        method: The method that was fitted; never "auto".
        widths: Columns of the features of either side.
        findings: What the method learned about its own result, by metric key.
        warnings: The same in words, where there is a reason to be careful.
    """

    method: str
    encoders: tuple[Encoder, Encoder]
    widths: tuple[int, int]
    findings: dict[str, float]
    warnings: list[str]

    def left(self, x: npt.ArrayLike | Tensor) -> npt.NDArray[np.float32]:
        """(n, d) embeddings, rows of length 1, of (n, p) features of the left side."""
        return self._embed(0, x, "x")

    def right(self, y: npt.ArrayLike | Tensor) -> npt.NDArray[np.float32]:
        """(m, d) embeddings, rows of length 1, of (m, q) features of the right side."""
        return self._embed(1, y, "y")

    def similarity(self, x: npt.ArrayLike | Tensor, y: npt.ArrayLike | Tensor) -> npt.NDArray[np.float32]:
        """(n, m) cosines between rows of both sides."""
        return self.left(x) @ self.right(y).T

    def _embed(self, side: int, features: npt.ArrayLike | Tensor, name: str) -> npt.NDArray[np.float32]:
        rows = _matrix(features, name)
        if rows.shape[1] != self.widths[side]:
            raise UsageError(
                f"{argument(name)}: has {rows.shape[1]} columns, and {self.widths[side]} were fitted",
                fix="give features of the same kind as those that were fitted",
            )
        with torch.inference_mode():
            embeddings: npt.NDArray[np.float32] = self.encoders[side](rows).numpy()
        for row, reason in unusable_rows(embeddings).items():
            raise SetClipError(f"{argument(name)}: row {row}: its embedding {reason}", fix="leave this row out")
        return embeddings


def fit(
    x: npt.ArrayLike | Tensor,
    y: npt.ArrayLike | Tensor,
    pairs: npt.ArrayLike | Tensor = (),
    *,
    method: Method = "auto",
    goal: Literal["auto", "partner", "kind"] = "auto",
    seed: int = 0,
    recipe: Recipe | Path | str | None = None,
) -> Aligned:
    """Aligns two unpaired sets of features in memory.

    Args:
        x: (n, p) features of the left side: a numpy array, a torch tensor or nested lists.
        y: (m, q) features of the right side. Row i of y has nothing to do with row i of x.
        pairs: (b, 2) integers: a row of x and the row of y that belongs to it; b may be 0.
        method: A method of the recipe; ``auto`` takes the one that is best for the goal.
        goal: What method ``auto`` aligns for: ``partner``, the one row that belongs to another, ``kind``, all rows of
            its kind; ``auto`` is partner if there are pairs.
        seed: Decides everything random.
        recipe: Where all other settings come from (default: those of the method); its own method and seed do not count.

    Raises:
        SetClipError: a matrix that is not finite or not two-dimensional, or whose rows are all equal; pairs that name
            rows which are not there; a method that needs pairs where there are none.
    """
    left, right = _matrix(x, "x"), _matrix(y, "y")
    known = _known_rows(pairs, len(left), len(right))
    base = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe or Recipe(towers=_TOWERS)
    asked = base.with_settings(method=method, goal=goal, seed=seed, **({} if len(known) else {"pairs": 0}))
    fitted = fit_recipe(asked, left, right, known)
    return Aligned(fitted.method, fitted.encoders, (left.shape[1], right.shape[1]), fitted.findings, fitted.warnings)


def _matrix(values: npt.ArrayLike | Tensor, name: str) -> Tensor:
    """(n, p) float32 on the CPU."""
    found = _tensor(values, name)
    if found.ndim != 2 or not len(found) or not bool(torch.isfinite(found).all()):
        what = "holds NaN or inf" if found.ndim == 2 and len(found) else f"has the shape {tuple(found.shape)}"
        raise UsageError(f"{argument(name)}: {what}", fix=_WANTED)
    rows = found.float()
    for row, reason in unusable_rows(rows.numpy()).items():
        if "zero" not in reason:  # a row of zeros, such as a text of unknown words, is only like the others
            raise UsageError(f"{argument(name)}: row {row} {reason}", fix=_WANTED)
    return rows


def _known_rows(pairs: npt.ArrayLike | Tensor, left: int, right: int) -> Tensor:
    """(b, 2) int64, checked against the numbers of rows."""
    found = _tensor(pairs, "pairs")
    if not found.numel():
        return torch.zeros(0, 2, dtype=torch.int64)
    if found.ndim != 2 or found.shape[1] != 2 or found.is_floating_point():
        raise UsageError(
            f"{argument('pairs')}: has the shape {tuple(found.shape)} and the type {found.dtype}",
            fix="give whole numbers of shape (pairs, 2): a row of x and a row of y",
        )
    wrong = ((found < 0) | (found >= torch.tensor([left, right]))).any(1)
    if bool(wrong.any()):
        raise UsageError(
            f"{argument('pairs')}: {int(wrong.sum())} of {len(found)} name rows that are not there, the first "
            f"{found[wrong][0].tolist()}; x has {left} rows and y has {right}",
            fix="count rows from 0",
        )
    return found.long()


def _tensor(values: Any, name: str) -> Tensor:
    try:
        found = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:  # rows of different lengths, text, None
        raise UsageError(f"{argument(name)}: is not a matrix of numbers ({first_line(error)})", fix=_WANTED) from error
    if found.is_complex():
        raise UsageError(f"{argument(name)}: holds complex numbers", fix=_WANTED)
    return found
