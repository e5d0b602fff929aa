"""Checks of what training reads, and of the numbers of a step. Each error names the first place where one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from setclip_cli.errors import SetClipError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from setclip_cli.recipe.recipe import Recipe

SAME = 1e-6  # largest difference of features that a backbone gives to equal items in different batches
BLOCK = 20_000  # rows that are compared at once


def require_pools(recipe: Recipe, pools: Mapping[str, Tensor]) -> None:
    """Checks that the rows of each side can be told apart, before anything is fitted to them.

    Args:
        pools: What a message calls a side -> its (n, p) features. One row alone is accepted.

    Raises:
        SetClipError: all rows of a side have the same features, or the objective needs more rows.
    """
    require_rows(recipe, {name: len(features) for name, features in pools.items()})
    for name, features in pools.items():
        first = F.normalize(features[:1], dim=1)
        blocks = (features[start : start + BLOCK] for start in range(0, len(features), BLOCK))  # the first will tell
        if len(features) > 1 and all(bool(((F.normalize(rows, dim=1) - first).abs() < SAME).all()) for rows in blocks):
            raise SetClipError(
                f"{name}: all {len(features)} rows have the same features apart from their length, so nothing can be "
                "learned from them",
                fix="check that the rows are different, and that what made the features is meant for such rows",
            )


def require_rows(recipe: Recipe, counts: Mapping[str, int]) -> None:
    """Raises SetClipError if a side has fewer rows than the objective needs."""
    density = recipe.objective.sdd
    for name, count in counts.items():
        if count < 2 and density.weight and density.form == "published":
            raise UsageError(
                f"{name}: has 1 row, and objective.sdd.form = 'published' needs 2 or more",
                fix="add rows, or set method = 'set-clip'",
            )


def check_embeddings(step: int, sides: Mapping[str, Iterable[Tensor]], terms: Iterable[str], *, rates: str) -> None:
    """Raises SetClipError when a side, "left" or "right", has embeddings that are not finite.

    Args:
        step: 1-based, of the message.
        terms: Names of the terms that use the embeddings.
        rates: The learning rates in words, which the error advises to lower.
    """
    for side, embeddings in sides.items():
        if not _finite(embeddings):
            raise SetClipError(
                f"step {step}: the {side} tower gives embeddings that are not finite, so no term of the objective "
                f"({', '.join(terms)}) is finite",
                fix=f"lower {rates}",
            )


def check_terms(
    step: int, terms: Mapping[str, Tensor], gradients: Mapping[str, Sequence[Tensor]], *, rates: str
) -> None:
    """Raises SetClipError when a term, or its gradient at the embeddings, is not finite."""
    for name, term in terms.items():
        if not _finite([term, *gradients[name]]):
            lower = f"lower {rates} or objective.{name}.weight"
            without = f"give rows that differ more, or set objective.{name}.weight = 0"
            raise SetClipError(
                f"step {step}: objective.{name} is {float(term.detach())}, or its gradient is not finite",
                fix=lower if step > 1 else without,  # in the first step no rate has been used yet
            )


def check_gradient(step: int, norm: Tensor, weights: Mapping[str, Tensor], *, rates: str) -> None:
    """Raises SetClipError when the norm of the gradient is not finite, though every term is.

    Args:
        weights: What has the gradient, by name, "left." or "right." first.
    """
    if _finite([norm]):
        return
    sides = {name.partition(".")[0]: None for name, value in weights.items() if not _finite([value.grad])}
    raise SetClipError(
        f"step {step}: the gradient of the {' and the '.join(sides)} tower is not finite, while every term of the "
        "objective is",
        fix=f"lower {rates}, or --set train.precision=float32",
    )


def _finite(tensors: Iterable[Tensor | None]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor is not None)
