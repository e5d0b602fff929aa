"""The options of `setclip check-pairs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from setclip_cli.options import Flag, Options, path_or_place


@dataclass(frozen=True)
class CheckPairsOptions(Options):
    """Which pairs to check, and through which towers."""

    run: Annotated[
        str | Path | None,
        Flag("A RUN: look at the rows through its towers.", metavar="RUN", parse=path_or_place),
    ] = None
    recipe: Annotated[
        str | None, Flag("Without a RUN: a recipe whose towers read the rows (default: small ones by kind).")
    ] = None
    split: Annotated[str | None, Flag("Check the pairs of this split (default: that of the recipe, else train).")] = (
        None
    )
    seed: Annotated[int, Flag("Random seed of the folds and the intervals.", least=0)] = 0
