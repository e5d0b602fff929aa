"""Options of `setclip label`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from setclip_cli.options import Flag, Options


@dataclass(frozen=True)
class LabelOptions(Options):
    """What is asked, and where the page is served."""

    run: Annotated[Path | None, Flag("A RUN that ranks the candidates (default: the known pairs and answers do).")] = (
        None
    )
    recipe: Annotated[Path | None, Flag("A recipe that names the two sides (default: by the rows of the DATASET).")] = (
        None
    )
    split: Annotated[str | None, Flag("The split whose rows are shown (default: that of the recipe, else train).")] = (
        None
    )
    count: Annotated[int, Flag("How many items to ask about.", least=1, most=100_000)] = 20
    port: Annotated[int, Flag("The port of the page; 0 takes any free one.", least=0, most=65_535)] = 0
    no_browser: Annotated[bool, Flag("Print the address only; do not open the browser.")] = False
