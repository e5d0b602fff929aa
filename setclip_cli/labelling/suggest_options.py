"""The options of `setclip suggest`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from setclip_cli.dataset.modality import Modality
from setclip_cli.options import Flag, Options, path_or_place


@dataclass(frozen=True)
class SuggestOptions(Options):
    """Which items to suggest."""

    count: Annotated[int, Flag("Suggest this many items.", least=1)] = 20
    run: Annotated[
        str | Path | None,
        Flag(
            "A RUN: take the items that it is unsure of, and show the partners that it finds likely.",
            metavar="RUN",
            parse=path_or_place,
        ),
    ] = None
    recipe: Annotated[
        str | None, Flag("Without a RUN: a recipe whose towers read the rows (default: small ones by kind).")
    ] = None
    split: Annotated[str | None, Flag("Suggest items of this split (default: that of the recipe, else train).")] = None
    side: Annotated[
        Modality | None, Flag("Suggest items of this modality (default: the first of the two).", metavar="MODALITY")
    ] = None
    candidates: Annotated[int, Flag("Show this many candidates for the partner of each item.", least=1, most=50)] = 8
    seed: Annotated[int, Flag("Random seed of the choice.", least=0)] = 0
