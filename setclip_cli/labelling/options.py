"""Options of `setclip label`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from setclip_cli.dataset.modality import Modality
from setclip_cli.options import Flag, Options, path_or_place


@dataclass(frozen=True)
class LabelOptions(Options):
    """What is asked, and where the page is served."""

    run: Annotated[
        str | Path | None,
        Flag(
            "A RUN that ranks the candidates (default: known pairs and answers do).", metavar="RUN", parse=path_or_place
        ),
    ] = None
    recipe: Annotated[
        str | None, Flag("Without a RUN: a recipe whose towers read the rows (default: small ones by kind).")
    ] = None
    split: Annotated[str | None, Flag("Ask about rows of this split (default: that of the recipe, else train).")] = None
    side: Annotated[
        Modality | None, Flag("Ask about items of this modality (default: the first of the two).", metavar="MODALITY")
    ] = None
    count: Annotated[int, Flag("Ask about this many items.", least=1, most=100_000)] = 20
    port: Annotated[int, Flag("Port of the page; 0 takes any free one.", least=0, most=65_535)] = 0
    no_browser: Annotated[bool, Flag("Print the address only; do not open a browser.")] = False
