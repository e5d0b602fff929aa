"""`embed --width`: whether the embeddings of a RUN can be cut to it, and how to train a RUN whose embeddings can."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.places import named
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.run.config import RECIPE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NO_EXTRA = [f"extra_encoders.{name}=0" for name in ("linear", "diffused", "shifted", "partner")]


def require_width(run: Path, width: int, nested: list[int], dim: int) -> None:
    """Checks that the embeddings of a RUN can be cut to this width.

    Args:
        nested: The widths that it was trained for.
        dim: The width of its whole embeddings.

    Raises:
        UsageError: they cannot; the advice is a command that is known to be valid, if there is one.
    """
    if width in nested:
        return
    shown = argument("width")
    if width >= dim:
        raise UsageError(
            f"{shown} {width}: the embeddings of {run} have {dim} values", fix=f"leave {shown} out to have all of them"
        )
    if nested:
        raise UsageError(
            f"{shown} {width}: {run} was trained for the widths {', '.join(map(str, nested))}",
            fix=f"choose one of them, or leave {shown} out",
        )
    command = _command(run, width)
    raise UsageError(
        f"{shown} {width}: the embeddings of {run} are not nested, so that their first values alone mean little",
        fix=f"leave {shown} out" + (f", or train a RUN with this width: {command}" if command else ""),
    )


def _command(run: Path, width: int) -> str:
    """The command that trains such a RUN with the recipe of this one; empty if no settings do."""
    path = run / RECIPE_NAME
    for settings in _settings(width, path):
        try:
            load_recipe(path, settings)
        except SetClipError:
            continue
        recipe = str(path) if named(path) == str(path) else "RECIPE"  # a recipe is read on this machine
        words = ["setclip", "align", recipe, "--data", "DATASET", "--out", "NEW_RUN"]
        return shlex.join([*words, *(word for one in settings for word in ("--set", one))])
    return ""


def _settings(width: int, path: Path) -> Iterator[list[str]]:
    """What to change in the recipe, the least first."""
    try:
        dim = load_recipe(path).projection.dim
    except SetClipError:
        return
    wider = [f"projection.nested=[{width},{dim}]"] if width < dim else [
        f"projection.nested=[{width}]", f"projection.dim={width}"
    ]  # fmt: skip
    for method in ([], ["method=set-clip-plus"], ["method=set-clip"]):
        for alone in ([], ["ensemble=1"], _NO_EXTRA, ["ensemble=1", *_NO_EXTRA]):
            yield [*wider, *method, *alone]
