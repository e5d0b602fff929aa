"""Checks that the numbers of a step are finite. Each error names the first place where they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor


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
            raise SetClipError(
                f"step {step}: objective.{name} is {float(term.detach())}, or its gradient is not finite",
                fix=f"lower {rates} or objective.{name}.weight",
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
