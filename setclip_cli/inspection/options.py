"""The options of `setclip inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from setclip_cli.options import Flag, Options, path_or_place

NEAR = 0.9


@dataclass(frozen=True)
class InspectOptions(Options):
    """What to look at."""

    run: Annotated[
        str | Path | None,
        Flag("A RUN: look at the rows through its towers.", metavar="RUN", parse=path_or_place),
    ] = None
    recipe: Annotated[
        str | None, Flag("Without a RUN: a recipe whose towers read the rows (default: small ones by kind).")
    ] = None
    split: Annotated[str | None, Flag("The training split (default: that of the recipe, else train).")] = None
    near_duplicates: Annotated[
        float,
        Flag(
            "Two rows whose features have this cosine or more, after the mean is subtracted, are near copies. A lower "
            "value finds more, and more rows that only look alike.",
            least=0.0,
            most=1.0,
        ),
    ] = NEAR
    seed: Annotated[int, Flag("Random seed of the samples.", least=0)] = 0
